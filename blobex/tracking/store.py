"""An MLflow store: whether it answers, one of its runs, its experiments and models. The only import of MLflow."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from blobex.config.data import Run
from blobex.core.errors import BlobexError, brief
from blobex.core.files import without_password
from blobex.tracking.pending import now

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A server that stops answering is given up after 100 seconds, where MLflow would wait for 20 minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

SQLITE = "sqlite:///"
SERVERS = ("http://", "https://")
PROBE = 10  # seconds in which a server must say that it is there
S3 = "s3://"
OFF = "none"
ALIAS = "latest-trained"
S3_ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
TABLES = "mlflow.loggedArtifacts"  # the tag by which the pages find tables
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # else the pages suppose language models


class UnreachableError(BlobexError):
    """A tracking server does not answer now."""


class MlflowTracker:
    """One MLflow run, as a Tracker. A moment is in milliseconds since 1970, and now if it is not given."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self._run_id = client, run_id

    @property
    def run_id(self) -> str:
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(self._run_id, params=entries, synchronous=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None, moment: int | None = None) -> None:
        from mlflow.entities import Metric

        entries = [Metric(key, float(value), moment or now(), step or 0) for key, value in metrics.items()]
        self.client.log_batch(self._run_id, metrics=entries, synchronous=True)

    def log_text(self, text: str, name: str) -> None:
        self.client.log_text(self._run_id, text, name)

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        from mlflow.entities import Dataset, DatasetInput

        dataset = Dataset(name=name, digest=digest, source_type="dvc", source=source, profile=None, schema=None)
        self.client.log_inputs(self._run_id, datasets=[DatasetInput(dataset, tags=[])])

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        self.client.log_image(self._run_id, image, key=key, step=step, synchronous=True)

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        # MLflow's own call appends to a table of that name: what is sent again would stand there twice.
        table = pd.DataFrame(columns).to_json(orient="split", index=False)
        self.client.log_text(self._run_id, table, name)
        self.client.set_tag(self._run_id, TABLES, json.dumps([{"path": name, "type": "table"}]))

    def log_artifact(self, path: Path) -> None:
        self.client.log_artifact(self._run_id, str(path))

    def log_model(self, model: torch.nn.Module, name: str, height: int, width: int) -> None:
        """Log a network of pictures and register it as `name` with the alias of the newest one trained."""
        import mlflow
        import mlflow.pytorch

        mlflow.set_tracking_uri(self.client.tracking_uri)
        example = np.zeros((2, 3, height, width), dtype=np.float32)
        with mlflow.start_run(run_id=self._run_id):
            info = mlflow.pytorch.log_model(
                model.eval(),
                name=name,
                input_example=example,
                pip_requirements=["torch", "torchvision"],
                registered_model_name=name,
            )
        self.client.set_registered_model_alias(name, ALIAS, info.registered_model_version)

    def end(self, status: str, moment: int | None = None) -> None:
        self.client.set_terminated(self._run_id, status, moment)


def connect(uri: str, s3_endpoint: str | None = None) -> Any:
    """An MLflow client of a store that answers; BlobexError if `uri` names none, UnreachableError for a silent server.

    From now on this process, and those that it starts, reach files on S3 by `s3_endpoint`, if one is given.
    """
    from mlflow import MlflowClient

    if s3_endpoint:
        os.environ[S3_ENDPOINT] = s3_endpoint  # MLflow has no other way to be told
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # else each new database and model is announced
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        with _alone(uri):
            if uri.startswith(SERVERS):
                _probe(uri)
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)  # the first use of a database creates its tables
    except Exception as error:  # each kind of store has errors of its own
        reason = brief(without_password(str(error)))
        if lost(error) and not _misspelt(error):
            raise UnreachableError(
                f"run.tracking_uri {without_password(uri)} does not answer ({reason}): start the server, or wait for it"
            ) from error
        raise BlobexError(
            f"run.tracking_uri {without_password(uri)} cannot be used ({reason}): set it to {SQLITE}mlruns/mlflow.db, "
            f"a server or {OFF}"
        ) from error
    return client


def _probe(uri: str) -> None:
    """Ask a server once whether it is there, in few seconds; what it says does not matter."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    http_request(get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=PROBE)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def lost(error: BaseException) -> bool:
    """Whether an error says that a server is gone or too slow, and not that it refuses what was asked."""
    from requests.exceptions import ConnectionError as RefusedError
    from requests.exceptions import RetryError, Timeout

    if isinstance(error, BlobexError):
        return isinstance(error, UnreachableError)
    silent = (ConnectionError, TimeoutError, RefusedError, RetryError, Timeout)
    return any(isinstance(cause, silent) for cause in _causes(error))


def _misspelt(error: BaseException) -> bool:
    """Whether an error says that there is no machine of this name, or that it speaks otherwise."""
    from requests.exceptions import SSLError

    return any(isinstance(cause, socket.gaierror | SSLError) for cause in _causes(error))


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """A local database is created by one process; others wait for it."""
    if not uri.startswith(SQLITE):
        yield
        return
    database = Path(uri.removeprefix(SQLITE))
    if database.is_file() and database.stat().st_size:
        with database.open("rb") as file:
            if file.read(15) != b"SQLite format 3":
                raise ValueError(f"{database} is no database")
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def reopen(client: Any, run_id: str) -> bool:
    """Whether the store knows a run; if so, it goes on."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if lost(error):
            raise
        return False
    return True


def has_run(client: Any, run_id: str) -> bool:
    """Whether the store knows a run that was not deleted."""
    from mlflow.entities import LifecycleStage
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    except MlflowException as error:
        if lost(error):
            raise
        return False


def experiment_of(client: Any, stage: str, location: str | None) -> str:
    """The experiment of a stage that keeps files at `location` (None: wherever it does); it is made if there is none.

    MLflow fixes the place of an experiment's files for good. One with another place steps aside: it is renamed after
    that place, with all its runs, and has its name again when its place is wanted again.
    """
    present = client.get_experiment_by_name(stage)
    if present is not None and location in (None, present.artifact_location):
        return str(present.experiment_id)
    if present is not None:
        client.rename_experiment(present.experiment_id, f"{stage} ({present.artifact_location})")
    earlier = client.get_experiment_by_name(f"{stage} ({location})")
    if earlier is None:
        return str(client.create_experiment(stage, location, tags=MODEL_TRAINING))
    client.rename_experiment(earlier.experiment_id, stage)
    return str(earlier.experiment_id)


def artifact_location(settings: Run, stage: str) -> str | None:
    if settings.artifacts is not None:
        if not settings.artifacts.startswith(S3):
            raise BlobexError(f"run.artifacts is {settings.artifacts!r}: it must be {S3}bucket/folder, or null")
        return f"{settings.artifacts.rstrip('/')}/{stage}"
    if not settings.tracking_uri.startswith(SQLITE):
        return None  # a server knows its own place
    return (Path(settings.tracking_uri.removeprefix(SQLITE)).parent / "artifacts" / stage).resolve().as_uri()


def load_model(uri: str, tracking_uri: str, device: torch.device, s3_endpoint: str | None = None) -> torch.nn.Module:
    """The PyTorch model of `models:/<name>@<alias>`, `models:/<name>/<version>` or `runs:/<run>/<model>`, on `device`.

    A model that was saved by pickle runs its code as it is opened. BlobexError: MLflow is off, or has no such model.
    """
    if tracking_uri == OFF:
        raise BlobexError(f"{uri} needs MLflow's store, but run.tracking_uri is {OFF}: set it to the store")
    connect(tracking_uri, s3_endpoint)
    import mlflow
    import mlflow.pytorch

    mlflow.set_tracking_uri(tracking_uri)
    try:
        model: torch.nn.Module = mlflow.pytorch.load_model(uri)
    except Exception as error:  # MLflow's own, and what opening a file may raise
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise BlobexError(f"MLflow gives no model {uri} ({reason}): check its name and run.tracking_uri") from error
    return model.to(device)
