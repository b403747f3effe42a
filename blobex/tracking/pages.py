"""MLflow's web pages on a local store."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from blobex.config.data import Run
from blobex.core.errors import BlobexError
from blobex.tracking.store import S3_ENDPOINT, SQLITE


def serve(settings: Run, port: int) -> NoReturn:
    """Replace this process by MLflow's web server on a local store.

    Raises:
        BlobexError: if `run.tracking_uri` is not a local database.
    """
    if not settings.tracking_uri.startswith(SQLITE):
        raise BlobexError(
            f"run.tracking_uri is {settings.tracking_uri}: only a store {SQLITE}... has no pages of its own to open"
        )
    options = {
        "--backend-store-uri": settings.tracking_uri,
        "--default-artifact-root": "mlruns/artifacts",
        "--host": "127.0.0.1",
        "--port": str(port),
    }
    endpoint = {S3_ENDPOINT: settings.s3_endpoint} if settings.s3_endpoint else {}
    arguments = [word for option in options.items() for word in option]
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "ui", *arguments], os.environ | endpoint)
