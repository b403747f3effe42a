"""A release in MLflow: a new version of a registered model, and the runs that trained its networks."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.networks.import_weights import sha256
from blobex.networks.weights import WEIGHTS
from blobex.release.contents import Contents
from blobex.release.pipeline import Part
from blobex.tracking import store as mlflow_store
from blobex.tracking.mlflow_tracker import MlflowTracker

EXPERIMENT, ALIAS = "release", "reference"
RUNS = 20  # the newest ones that are looked through for each network


@dataclass(frozen=True)
class TrainingRun:
    """The MLflow run that logged a network's very weights."""

    run_id: str
    commit: str  # of git; "none" where there was none
    minutes: float  # from its first moment to its last


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong within is told as a BlobexError: each kind of store has errors of its own."""
    try:
        yield
    except BlobexError:
        raise
    except Exception as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise BlobexError(f"MLflow did not do its part ({reason}): check run.tracking_uri, or --no-register") from error


@_told()
def training_runs(client: Any, contents: Contents) -> dict[str, TrainingRun]:
    """The newest finished run that logged each network's weights, by its name; without those that have none."""
    found = ((part.name, _training_run(client, contents.setup, part)) for part in contents.networks)
    return {name: run for name, run in found if run}


def _training_run(client: Any, setup: str, part: Part) -> TrainingRun | None:
    experiment = client.get_experiment_by_name(part.stage)
    if experiment is None:
        return None
    chosen = f"tags.setup = '{setup}' and attributes.status = 'FINISHED'"
    newest = ["attributes.start_time DESC"]
    checksum = sha256(part.metrics.with_name(WEIGHTS))
    for run in client.search_runs([experiment.experiment_id], chosen, order_by=newest, max_results=RUNS):
        tags, info = run.data.tags, run.info
        if tags.get("variant", "") == part.variant and _logged_weights(client, info.run_id) == checksum:
            minutes = (info.end_time - info.start_time) / 60_000
            return TrainingRun(info.run_id, tags.get("mlflow.source.git.commit", "none"), minutes)
    return None


def _logged_weights(client: Any, run_id: str) -> str | None:
    """SHA-256 of the weights among a run's artifacts."""
    if WEIGHTS not in {item.path for item in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as place:
        return sha256(Path(client.download_artifacts(run_id, WEIGHTS, place)))


@_told()
def add_version(
    client: Any, params: Params, model: str, folder: Path, measures: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """Log a release folder and its measures to a run, and make that a new version of `model`; the version's number.

    No alias points to it yet: until `promote`, the version before is the one that is used.
    """
    place = mlflow_store.artifact_location(params.run, EXPERIMENT)
    experiment = mlflow_store.experiment_of(client, EXPERIMENT, place)
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


@_told()
def promote(client: Any, model: str, version: str, contents: Contents, runs: Mapping[str, TrainingRun]) -> list[str]:
    """Let the alias `reference` point to a version, and to those that the trainings of its decision models registered.

    Versions that had it stay without. The names and versions that have it now.
    """
    chosen = [(model, version)]
    for part in contents.networks:
        if part.name in runs:
            name = f"{part.stage}-{contents.setup}-{part.variant}"
            same = f"name = '{name}' and run_id = '{runs[part.name].run_id}'"
            chosen += [(name, str(each.version)) for each in client.search_model_versions(same)[:1]]
    for name, number in chosen:
        client.set_registered_model_alias(name, ALIAS, number)
    return [f"{name} {number}" for name, number in chosen]
