"""Releases in MLflow: versions of a registered model, its alias, and the runs that trained the networks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blobex.config.params import Params
from blobex.core.errors import BlobexError, brief
from blobex.networks.import_weights import sha256
from blobex.networks.weights import WEIGHTS
from blobex.release.contents import Contents, Part
from blobex.tracking import store as mlflow_store
from blobex.tracking.tracker import MlflowTracker

EXPERIMENT, ALIAS = "release", "reference"
MAX_RUNS = 20  # newest runs that are searched for each network


@dataclass(frozen=True)
class TrainingRun:
    """The MLflow run that logged a network's weights."""

    run_id: str
    commit: str  # of git; "none" outside of a repository
    minutes: float  # between start and end


@contextmanager
def _errors_of_mlflow() -> Iterator[None]:
    """Convert all exceptions to BlobexError: every kind of MLflow store raises its own."""
    try:
        yield
    except BlobexError:
        raise
    except Exception as error:
        if mlflow_store.held(error):
            raise BlobexError("another process holds MLflow's store: end it, or wait, and release again") from error
        reason = brief(f"{type(error).__name__}: {error}")
        raise BlobexError(f"MLflow failed ({reason}): check run.tracking_uri, or give --no-register") from error


@_errors_of_mlflow()
def training_runs(client: Any, contents: Contents) -> dict[str, TrainingRun]:
    """Return the newest finished run that logged each network's weights, by the network's name."""
    runs = {part.name: _training_run(client, part) for part in contents.networks}
    return {name: run for name, run in runs.items() if run}


def _training_run(client: Any, part: Part) -> TrainingRun | None:
    experiment = client.get_experiment_by_name(part.stage)
    if experiment is None:
        return None
    finished = f"tags.setup = '{part.setup}' and attributes.status = 'FINISHED'"
    order = ["attributes.start_time DESC"]
    checksum = sha256(part.folder / WEIGHTS)
    for run in client.search_runs([experiment.experiment_id], finished, order_by=order, max_results=MAX_RUNS):
        tags, info = run.data.tags, run.info
        if tags.get("variant", "") == part.variant and _logged_weights(client, info.run_id) == checksum:
            minutes = (info.end_time - info.start_time) / 60_000
            return TrainingRun(info.run_id, tags.get("mlflow.source.git.commit", "none"), minutes)
    return None


def _logged_weights(client: Any, run_id: str) -> str | None:
    """Return the SHA-256 of the weights among a run's artifacts."""
    if WEIGHTS not in {item.path for item in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return sha256(Path(client.download_artifacts(run_id, WEIGHTS, folder)))


@_errors_of_mlflow()
def add_version(
    client: Any, params: Params, model: str, folder: Path, measures: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """Log a release folder and its measures as a run, register it as a version of `model` and return its number.

    `promote` moves the alias to it: until then the version before remains the reference.
    """
    location = mlflow_store.artifact_location(params.run, EXPERIMENT)
    experiment = mlflow_store.experiment_of(client, EXPERIMENT, location)
    run_id = client.create_run(experiment, run_name=model, tags=dict(tags)).info.run_id
    status = "FAILED"
    try:
        MlflowTracker(client, run_id).log_metrics(measures)
        client.log_artifacts(run_id, str(folder), EXPERIMENT)
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model, description="networks of blobex, as released")
        source = f"{client.get_run(run_id).info.artifact_uri}/{EXPERIMENT}"
        version = str(client.create_model_version(model, source, run_id, tags=dict(tags)).version)
        status = "FINISHED"
        return version
    finally:
        client.set_terminated(run_id, status)


@_errors_of_mlflow()
def promote(client: Any, model: str, version: str, contents: Contents, runs: Mapping[str, TrainingRun]) -> list[str]:
    """Set the alias `reference` of a version and of those that its decision models' trainings registered; list them."""
    versions = [(model, version)]
    for part in contents.networks:
        if part.name in runs:
            name = f"{part.stage}-{contents.setup}-{part.variant}"
            query = f"name = '{name}' and run_id = '{runs[part.name].run_id}'"
            versions += [(name, str(registered.version)) for registered in client.search_model_versions(query)[:1]]
    for name, number in versions:
        client.set_registered_model_alias(name, ALIAS, number)
    return [f"{name} {number}" for name, number in versions]
