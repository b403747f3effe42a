"""A release in MLflow: a new version of a registered model, and the runs that trained its networks."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from blobex import tracking
from blobex.config.params import Params
from blobex.errors import BlobexError
from blobex.importing import sha256
from blobex.networks.weights import WEIGHTS
from blobex.release.collect import Network

EXPERIMENT, ARTIFACTS, ALIAS = "release", "release", "reference"
RUNS = 20  # the newest ones that are looked through for each network
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class TrainingRun:
    """The MLflow run that logged a network's very weights."""

    run_id: str
    commit: str  # of git; "none" where there was none
    seconds: float  # from its first moment to its last


def _told(function: Callable[P, T]) -> Callable[P, T]:
    """MLflow's errors as a BlobexError: each kind of store has some of its own."""

    @wraps(function)
    def told(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return function(*arguments, **options)
        except BlobexError:
            raise
        except Exception as error:
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            raise BlobexError(
                f"MLflow did not do its part ({reason}): check run.tracking_uri, or --no-register"
            ) from error

    return told


@_told
def training_run(client: Any, network: Network) -> TrainingRun | None:
    """The newest finished run that logged these weights; None if there is none."""
    experiment = client.get_experiment_by_name(network.stage)
    if experiment is None:
        return None
    chosen = f"tags.setup = '{network.setup}' and attributes.status = 'FINISHED'"
    newest = ["attributes.start_time DESC"]
    checksum = sha256(network.folder / WEIGHTS)
    for run in client.search_runs([experiment.experiment_id], chosen, order_by=newest, max_results=RUNS):
        same = run.data.tags.get("variant", "") == network.variant
        if same and _logged_weights(client, run.info.run_id) == checksum:
            seconds = (run.info.end_time - run.info.start_time) / 1000
            return TrainingRun(run.info.run_id, run.data.tags.get("mlflow.source.git.commit", "none"), seconds)
    return None


def _logged_weights(client: Any, run_id: str) -> str | None:
    """SHA-256 of the weights among a run's artifacts."""
    if WEIGHTS not in {item.path for item in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as place:
        return sha256(Path(client.download_artifacts(run_id, WEIGHTS, place)))


def store_to_ask(params: Params) -> Any:
    """A client of the store of trainings; None if MLflow is off, or its database is not there yet."""
    uri = params.run.tracking_uri
    database = Path(uri.removeprefix(tracking.SQLITE))
    if uri == tracking.OFF or (uri.startswith(tracking.SQLITE) and not database.is_file()):
        return None
    return tracking.connect(uri)


@_told
def add_version(
    client: Any, model: str, setup: str, folder: Path, measures: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """Log a release folder and its measures to a run, and make that a new version of `model`; the version's number.

    No alias points to it yet: until `promote`, the version before is the one that is used.
    """
    run_tags = {"setup": setup, "mlflow.source.git.commit": tags["commit"]}
    run_id = client.create_run(_experiment(client), run_name=model, tags=run_tags).info.run_id
    status = "FAILED"
    try:
        tracking.MlflowTracker(client, run_id).log_metrics(measures)
        client.log_artifacts(run_id, str(folder), ARTIFACTS)
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model, description=f"blobex's networks for {setup} pictures, as released")
        source = f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACTS}"
        version = str(client.create_model_version(model, source, run_id, tags=dict(tags)).version)
        status = "FINISHED"
        return version
    finally:
        client.set_terminated(run_id, status)


@_told
def promote(client: Any, model: str, version: str) -> None:
    """Let the alias `reference` point to a version; the one that had it stays without."""
    client.set_registered_model_alias(model, ALIAS, version)


@_told
def promote_decision(client: Any, network: Network, run: TrainingRun | None) -> str | None:
    """Do the same for the model that a decision's training registered; its name and version, None if there is none."""
    model = f"decision-{network.setup}-{network.variant}"
    versions = client.search_model_versions(f"name = '{model}'") if run else []
    version = next((each.version for each in versions if run and each.run_id == run.run_id), None)
    if version is None:
        return None
    client.set_registered_model_alias(model, ALIAS, version)
    return f"{model} {version}"


def _experiment(client: Any) -> str:
    """The experiment of releases. A database beside the artifacts says where they are; a server knows by itself."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    uri, location = client.tracking_uri, None
    if uri.startswith(tracking.SQLITE):
        folder = Path(uri.removeprefix(tracking.SQLITE)).parent / "artifacts" / EXPERIMENT
        location = folder.resolve().as_uri()
    return str(client.create_experiment(EXPERIMENT, location, tags=tracking.MODEL_TRAINING))
