"""MLflow, and nothing else, stands behind this module: one experiment per stage, one run per stage and setup."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import yaml

from blobex.config.data import Run
from blobex.config.params import Params
from blobex.config.read import flatten, read_yaml, to_dict
from blobex.device import is_first_process
from blobex.errors import BlobexError, brief
from blobex.files import without_password
from blobex.process import is_gone, this_process
from blobex.training.tracker import NullTracker, Tracker

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

SQLITE = "sqlite:///"
S3 = "s3://"
OFF = "none"
ALIAS = "latest-trained"
PROCESS, PARENT = "process", "mlflow.parentRunId"  # tags
S3_ENDPOINT = "MLFLOW_S3_ENDPOINT_URL"
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}  # else the pages suppose language models


class MlflowTracker:
    """One MLflow run, as a Tracker."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self._run_id = client, run_id

    @property
    def run_id(self) -> str:
        return self._run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        self.client.log_batch(self._run_id, params=entries, synchronous=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        entries = [Metric(key, float(value), now, step or 0) for key, value in metrics.items()]
        self.client.log_batch(self._run_id, metrics=entries, synchronous=True)

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        self.client.log_image(self._run_id, image, key=key, step=step, synchronous=True)

    def log_artifact(self, path: Path) -> None:
        self.client.log_artifact(self._run_id, str(path))


@contextmanager
def run(
    params: Params,
    stage: str,
    setup: str,
    data: Path | None = None,
    run_id: str | None = None,
    variant: str | None = None,
) -> Iterator[Tracker]:
    """A tracked run of one stage; it ends FINISHED, or FAILED if the block raises.

    Logged at once: the stage's and the run's parameters, the resolved config, the git commit and, if `data` names what
    DVC versions, its hash as the run's data set. `variant`, if the stage has some, becomes a tag. `run_id` continues a
    run, and so does what is left of a killed process with the same parameters; `tracking_uri: none` tracks nothing, and
    of several processes only the first one tracks. BlobexError if the store does not answer or takes no files: before
    the block, so before hours of training.
    """
    if params.run.tracking_uri == OFF or not is_first_process():
        yield NullTracker()
        return
    client = connect(params.run.tracking_uri, params.run.s3_endpoint)
    values = flatten(getattr(params, stage), f"{stage}.") | flatten(params.run, "run.")
    tracker = MlflowTracker(client, _open_run(client, params.run, stage, setup, run_id, variant, values))
    with _ended(tracker):
        if run_id is None:  # a continued run may have others: they cannot be logged anew
            tracker.log_params(values)
        _log_config(client, tracker.run_id, params)
        if data is not None:
            _log_dataset(client, tracker.run_id, data)
        yield tracker


@contextmanager
def child(params: Params, parent: str | None, name: str, values: Mapping[str, Any]) -> Iterator[Tracker]:
    """A run within the run `parent`, of which it shares the experiment; it ends as the block does.

    Without a parent, or without tracking, nothing is tracked.
    """
    if params.run.tracking_uri == OFF or parent is None:
        yield NullTracker()
        return
    client = connect(params.run.tracking_uri, params.run.s3_endpoint)
    above = client.get_run(parent)
    tags = {PARENT: parent, "setup": above.data.tags.get("setup", "")}
    run_id: str = client.create_run(above.info.experiment_id, run_name=name, tags=tags).info.run_id
    tracker = MlflowTracker(client, run_id)
    with _ended(tracker):
        tracker.log_params(values)
        yield tracker


@contextmanager
def _ended(tracker: MlflowTracker) -> Iterator[None]:
    """The run ends as the block does: FINISHED, KILLED if someone stops it, or FAILED."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.client.set_terminated(tracker.run_id, status)


def end(params: Params, run_id: str | None, status: str) -> None:
    """Close a run whose process is gone, if the tracker still knows it."""
    if known(params, run_id) is not None:
        connect(params.run.tracking_uri, params.run.s3_endpoint).set_terminated(run_id, status)


def known(params: Params, run_id: str | None) -> str | None:
    """The run's id if the tracker knows such a run, else None."""
    from mlflow.exceptions import MlflowException

    if params.run.tracking_uri == OFF or run_id is None:
        return None
    try:
        connect(params.run.tracking_uri, params.run.s3_endpoint).get_run(run_id)
    except MlflowException:
        return None
    return run_id


def connect(uri: str, s3_endpoint: str | None = None) -> Any:
    """An MLflow client of a store that answers; BlobexError if `uri` names none.

    From now on this process, and those that it starts, reach files on S3 by `s3_endpoint`, if one is given.
    """
    from mlflow import MlflowClient

    if s3_endpoint:
        os.environ[S3_ENDPOINT] = s3_endpoint  # MLflow has no other way to be told
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # else each new database and model is announced
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        with _alone(uri):
            client = MlflowClient(uri)
            client.search_experiments(max_results=1)  # the first use of a database creates its tables
    except Exception as error:  # each kind of store has errors of its own
        reason = brief(without_password(str(error)))
        raise BlobexError(
            f"run.tracking_uri {without_password(uri)} cannot be used ({reason}): set it to {SQLITE}mlruns/mlflow.db, "
            f"a server or {OFF}"
        ) from error
    return client


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


def serve(settings: Run, port: int) -> NoReturn:
    """Become the server of MLflow's pages about a local store's runs; BlobexError if `run.tracking_uri` is no such."""
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
    words = [word for option in options.items() for word in option]
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "ui", *words], os.environ | endpoint)


def register_decision(
    tracker: Tracker, params: Params, name: str, model: torch.nn.Module, height: int, width: int
) -> None:
    """Log a decision model to its run and register it as `name` with the alias of the newest one trained."""
    if not isinstance(tracker, MlflowTracker):
        return
    import mlflow
    import mlflow.pytorch

    mlflow.set_tracking_uri(params.run.tracking_uri)
    example = np.zeros((2, 3, height, width), dtype=np.float32)
    with mlflow.start_run(run_id=tracker.run_id):
        info = mlflow.pytorch.log_model(
            model.eval(),
            name=name,
            input_example=example,
            pip_requirements=["torch", "torchvision"],
            registered_model_name=name,
        )
    tracker.client.set_registered_model_alias(name, ALIAS, info.registered_model_version)


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


def _open_run(
    client: Any,
    settings: Run,
    stage: str,
    setup: str,
    run_id: str | None,
    variant: str | None,
    values: Mapping[str, Any],
) -> str:
    from mlflow.exceptions import MlflowException

    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
            client.set_tag(run_id, PROCESS, this_process())
        except MlflowException as error:
            raise BlobexError(
                f"MLflow knows no run {run_id}: check resume.run_id, or set resume.source to none"
            ) from error
        return run_id
    experiment_id = _experiment(client, stage, _artifact_location(settings, stage))
    tags = {"setup": setup, **({"variant": variant} if variant else {})}
    left = _left_open(client, experiment_id, tags, values)
    if left is not None:
        client.set_tag(left, PROCESS, this_process())
        return left
    tags |= {"mlflow.source.git.commit": _git("rev-parse", "HEAD"), PROCESS: this_process()}
    name = "-".join([stage, setup, *filter(None, [variant])])
    created: str = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    return created


def _left_open(client: Any, experiment_id: str, tags: Mapping[str, str], values: Mapping[str, Any]) -> str | None:
    """The open run of a process that is gone, if it had these values; with other values it is ended as killed."""
    chosen = None
    wanted = {key: str(value) for key, value in values.items()}.items()
    for run in client.search_runs([experiment_id], filter_string="attributes.status = 'RUNNING'"):
        known = run.data.tags
        if tags.items() <= known.items() and PARENT not in known and is_gone(known.get(PROCESS, "")):
            if chosen is None and run.data.params.items() <= wanted:
                chosen = run.info.run_id
            else:
                client.set_terminated(run.info.run_id, "KILLED")
    return chosen


def _experiment(client: Any, stage: str, location: str | None) -> str:
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


def _artifact_location(settings: Run, stage: str) -> str | None:
    if settings.artifacts is not None:
        if not settings.artifacts.startswith(S3):
            raise BlobexError(f"run.artifacts is {settings.artifacts!r}: it must be {S3}bucket/folder, or null")
        return f"{settings.artifacts.rstrip('/')}/{stage}"
    if not settings.tracking_uri.startswith(SQLITE):
        return None  # a server knows its own place
    return (Path(settings.tracking_uri.removeprefix(SQLITE)).parent / "artifacts" / stage).resolve().as_uri()


def _log_config(client: Any, run_id: str, params: Params) -> None:
    """The first file of a run, which shows whether its place takes any."""
    try:
        client.log_text(run_id, yaml.safe_dump(to_dict(params), sort_keys=False), "params.yaml")
    except Exception as error:  # each kind of place has errors of its own
        reason = textwrap.shorten(str(error), 400)
        raise BlobexError(
            f"MLflow cannot keep the run's files ({reason}): check run.artifacts, run.s3_endpoint and your credentials"
        ) from error


def _log_dataset(client: Any, run_id: str, data: Path) -> None:
    from mlflow.entities import Dataset, DatasetInput

    digest = dvc_hash(data)
    dataset = Dataset(
        name=data.stem, digest=digest[:36], source_type="dvc", source=str(data), profile=None, schema=None
    )
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags=[])])


def dvc_hash(path: Path) -> str:
    """The MD5 that dvc.lock holds for an output or a dependency, or "unversioned"; BlobexError if it is damaged."""
    try:
        stages = (read_yaml(Path("dvc.lock")) or {}).get("stages", {}).values()
        entries = [entry for stage in stages for part in ("outs", "deps") for entry in stage.get(part, [])]
        found = next((entry.get("md5") for entry in entries if entry["path"] == path.as_posix()), None)
    except OSError:
        return "unversioned"
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BlobexError("dvc.lock is not what DVC writes: take it from git again, or run `dvc repro`") from error
    return str(found or "unversioned")


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return answer.stdout.strip()
