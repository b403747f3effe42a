"""Connection to an MLflow store, its experiments, models and web pages."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch

from blobex.config.data import Run
from blobex.core.errors import BlobexError, brief
from blobex.core.files import without_password
from blobex.core.processes import locked
from blobex.tracking.places import SQLITE, database, local_artifacts, located, relocate

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # processes that only language models need
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A server that stops answering is given up after 100 seconds, where MLflow would wait for 20 minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

SERVERS = ("http://", "https://")
PROBE = 10  # seconds within which a server must answer at the start of a run
PATIENCE = 60  # seconds to wait for another process that holds a local database
S3 = "s3://"
OFF = "none"
ALIAS = "latest-trained"  # of the newest version of a registered model
S3_ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # the default is an experiment on LLMs


class UnreachableError(BlobexError):
    """A tracking server does not answer, or another process holds a local database."""


def connect(uri: str, s3_endpoint: str | None = None) -> Any:
    """Return an MLflow client of the store at `uri`.

    `s3_endpoint`, if given, becomes the S3 server of this process and of those that it starts.

    A local store that was moved with its folder is corrected, see `places.relocate`.

    Raises:
        UnreachableError: if `uri` is a server that does not answer, or a database that another process holds.
        BlobexError: if `uri` names no store that can be used.
    """
    from mlflow import MlflowClient

    if s3_endpoint:
        os.environ[S3_ENDPOINT] = s3_endpoint  # MLflow reads it from the environment only
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # else each new database and model is announced
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints tracebacks of what it raises
    try:
        with _creation_lock(uri):
            if uri.startswith(SERVERS):
                _probe(uri)
            client = MlflowClient(located(uri))
            client.search_experiments(max_results=1)  # the first use of a database creates its tables
    except Exception as error:  # each kind of store has its own exceptions
        reason = brief(without_password(str(error)))
        if held(error):
            raise UnreachableError(f"run.tracking_uri {uri} is held by another process: end it, or wait") from error
        if lost(error) and not _wrong_address(error):
            raise UnreachableError(
                f"run.tracking_uri {without_password(uri)} does not answer ({reason}): start the server, or wait for it"
            ) from error
        raise BlobexError(
            f"run.tracking_uri {without_password(uri)} cannot be used ({reason}): set it to {SQLITE}mlruns/mlflow.db, "
            f"a server or {OFF}"
        ) from error
    return client


def _probe(uri: str) -> None:
    """Send one request without retries, so that a silent server costs a few seconds only."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    http_request(get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=PROBE)


def held(error: BaseException) -> bool:
    """Return True if an exception means that another process holds a local database."""
    return any(isinstance(cause, sqlite3.OperationalError) and "locked" in str(cause) for cause in _causes(error))


def lost(error: BaseException) -> bool:
    """Return True if an exception means that the store is gone, too slow or held, not that it refuses a request."""
    from requests.exceptions import ConnectionError as RefusedError
    from requests.exceptions import RetryError, Timeout

    if isinstance(error, BlobexError):
        return isinstance(error, UnreachableError)
    silent = (ConnectionError, TimeoutError, RefusedError, RetryError, Timeout)
    return held(error) or any(isinstance(cause, silent) for cause in _causes(error))


def _wrong_address(error: BaseException) -> bool:
    """Return True if no machine has this name, or if it speaks another protocol."""
    from requests.exceptions import SSLError

    return any(isinstance(cause, socket.gaierror | SSLError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    """Let one process at a time open a local database: two that create its tables together would crash."""
    if not uri.startswith(SQLITE):
        yield
        return
    path = database(uri)
    exists = path.is_file() and path.stat().st_size > 0
    if exists:
        with path.open("rb") as file:
            if file.read(15) != b"SQLite format 3":
                raise ValueError(f"{path} is no database")
    with locked(path.parent / ".lock"):
        if exists:
            relocate(path, PATIENCE)
        yield


def has_run(client: Any, run_id: str) -> bool:
    """Return True if the store holds a run that was not deleted."""
    from mlflow.entities import LifecycleStage
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    except MlflowException as error:
        if lost(error):
            raise
        return False


def experiment_of(client: Any, stage: str, location: str | None) -> str:
    """Return the id of a stage's experiment whose files are at `location` (None: anywhere); create it if needed.

    MLflow never changes the artifact location of an experiment. One with another location is renamed after that
    location, with all its runs, and gets its name back when its location is wanted again.
    """
    current = client.get_experiment_by_name(stage)
    if current is not None and location in (None, current.artifact_location):
        return str(current.experiment_id)
    if current is not None:
        client.rename_experiment(current.experiment_id, f"{stage} ({current.artifact_location})")
    earlier = client.get_experiment_by_name(f"{stage} ({location})")
    if earlier is None:
        return str(client.create_experiment(stage, location, tags=MODEL_TRAINING))
    client.rename_experiment(earlier.experiment_id, stage)
    return str(earlier.experiment_id)


def artifact_location(settings: Run, stage: str) -> str | None:
    """Return the URI of a stage's artifacts; None leaves it to the server.

    Raises:
        BlobexError: if `run.artifacts` is not in a bucket.
    """
    if settings.artifacts is not None:
        if not settings.artifacts.startswith(S3):
            raise BlobexError(f"run.artifacts is {settings.artifacts!r}: it must be {S3}bucket/folder, or null")
        return f"{settings.artifacts.rstrip('/')}/{stage}"
    return None if not settings.tracking_uri.startswith(SQLITE) else local_artifacts(settings.tracking_uri, stage)


def load_model(uri: str, tracking_uri: str, device: torch.device, s3_endpoint: str | None = None) -> torch.nn.Module:
    """Load the PyTorch model `models:/<name>@<alias>`, `models:/<name>/<version>` or `runs:/<run>/<model>`.

    A pickled model runs its own code when it is loaded.

    Raises:
        BlobexError: if tracking is off, or MLflow has no such model.
    """
    if tracking_uri == OFF:
        raise BlobexError(f"{uri} needs MLflow's store, but run.tracking_uri is {OFF}: set it to the store")
    connect(tracking_uri, s3_endpoint)
    import mlflow
    import mlflow.pytorch

    mlflow.set_tracking_uri(located(tracking_uri))
    try:
        model: torch.nn.Module = mlflow.pytorch.load_model(uri)
    except Exception as error:  # MLflow's own, and those of reading a file
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise BlobexError(f"MLflow gives no model {uri} ({reason}): check its name and run.tracking_uri") from error
    return model.to(device)


def check_local(settings: Run) -> None:
    """Raise BlobexError unless `run.tracking_uri` is a local database."""
    if not settings.tracking_uri.startswith(SQLITE):
        raise BlobexError(
            f"run.tracking_uri is {settings.tracking_uri}: only a store {SQLITE}... has no pages of its own to open"
        )


def serve_pages(settings: Run, port: int) -> NoReturn:
    """Replace this process by MLflow's web server on a local store.

    Raises:
        BlobexError: if `run.tracking_uri` is not a local database.
    """
    check_local(settings)
    file = database(settings.tracking_uri)
    if file.is_file():
        with suppress(sqlite3.Error):  # pages of a store that is held or damaged say so themselves
            relocate(file, PROBE)
    options = {
        "--backend-store-uri": located(settings.tracking_uri),
        "--default-artifact-root": str(file.parent / "artifacts"),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",  # one reader needs no more; each takes 0.2 GB
    }
    endpoint = {S3_ENDPOINT: settings.s3_endpoint} if settings.s3_endpoint else {}
    arguments = [word for option in options.items() for word in option]
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "ui", *arguments], os.environ | endpoint)
