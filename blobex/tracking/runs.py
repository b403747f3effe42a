"""Tracked runs: one experiment per stage, one run per stage and setup, nested runs for the trials of a sweep."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from blobex.config.data import Run
from blobex.config.params import Params
from blobex.config.read import flatten
from blobex.core.device import is_first_process
from blobex.core.errors import BlobexError
from blobex.core.files import without_password
from blobex.core.processes import is_gone, this_process
from blobex.tracking import sync
from blobex.tracking.places import SQLITE, local_artifacts
from blobex.tracking.store import OFF, artifact_location, connect, experiment_of, has_run, lost
from blobex.tracking.sync import PARENT, PROCESS
from blobex.tracking.tracker import MlflowTracker, NullTracker, Tracker
from blobex.tracking.versions import COMMIT, SOURCE, dvc_hash, git

EXPERIMENT = "dvc.experiment"
REPAIRED = "repaired"  # alias of the version of a registered model that its explanations mended
EXPLANATIONS = "explanations"  # tag of that version


@dataclass(frozen=True)
class RunSpec:
    """Description by which a run is created, or found again after its process was killed."""

    stage: str
    name: str
    tags: Mapping[str, str]  # setup and, where they apply, variant and parent run
    params: Mapping[str, str]
    run_id: str | None = None  # run to continue


@contextmanager
def run(
    params: Params,
    stage: str,
    setup: str,
    data: Path | None = None,
    run_id: str | None = None,
    variant: str | None = None,
) -> Iterator[Tracker]:
    """Track one run of a stage; it ends FINISHED, KILLED on Ctrl-C, or FAILED if the block raises.

    The parameters of the stage and of `run`, the resolved configuration and the git commit are logged at once, and the
    DVC hash of `data` as the run's data set. `run_id` names a run to continue; a run of a killed process with the same
    parameters is continued without being named. If the tracking server does not answer, or another process holds the
    database, the run is logged to a local store and copied later (`tracking.sync`). Only the first of several processes
    tracks; `tracking_uri: none` tracks nothing.

    Raises:
        BlobexError: before the block, if the store cannot be used or takes no files.
    """
    if params.run.tracking_uri == OFF or not is_first_process():
        yield NullTracker()
        return
    values = flatten(getattr(params, stage), f"{stage}.") | flatten(params.run, "run.")
    tags = {"setup": setup, **({"variant": variant} if variant else {}), **_experiment()}
    name = "-".join([stage, setup, *filter(None, [variant, tags.get(EXPERIMENT)])])
    tracker = _open(params.run, RunSpec(stage, name, tags, _as_text(values), run_id))
    with _ended(tracker):
        if run_id is None:  # a continued run may have other parameters, which MLflow cannot overwrite
            tracker.log_params(values)
        _log_config(tracker, params)
        if data is not None:
            tracker.log_dataset(name=data.stem, digest=dvc_hash(data)[:36], source=str(data))
        yield tracker


@contextmanager
def child(
    params: Params, parent: str | None, stage: str, setup: str, label: str, values: Mapping[str, Any]
) -> Iterator[Tracker]:
    """Track a nested run of the run `parent`; without a parent or without tracking, nothing is tracked."""
    if params.run.tracking_uri == OFF or parent is None:
        yield NullTracker()
        return
    tags = {PARENT: parent, "setup": setup}
    tracker = _open(params.run, RunSpec(stage, f"{stage}-{setup}-{label}", tags, _as_text(values)))
    with _ended(tracker):
        tracker.log_params(values)
        yield tracker


def _experiment() -> dict[str, str]:
    """Return the tag of runs within `dvc exp run`: the name of DVC's experiment."""
    name = os.environ.get("DVC_EXP_NAME")
    return {EXPERIMENT: name} if name else {}


def _as_text(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in values.items()}


def _open(settings: Run, spec: RunSpec) -> MlflowTracker:
    """Begin or continue a run in the configured store, or in the local one if that cannot be used now."""
    parent = spec.tags.get(PARENT)
    try:
        client = connect(settings.tracking_uri, settings.s3_endpoint)
        if parent is None:
            sync.copy_runs(client, settings)
            spec = replace(spec, run_id=sync.copy_of(client, spec.run_id, settings.tracking_uri))
        elif not has_run(client, parent) and _waits(settings, parent):
            return MlflowTracker(*_open_locally(settings, spec))
        run_id = _open_run(client, spec, artifact_location(settings, spec.stage))
    except Exception as error:
        if not lost(error):
            raise
    else:
        return MlflowTracker(client, run_id, lambda: _fall_back(settings, replace(spec, run_id=run_id)))
    return MlflowTracker(*_fall_back(settings, spec))


def _waits(settings: Run, run_id: str) -> bool:
    """Return True if a run was logged locally and is not finished yet."""
    local = sync.local_client(sync.waiting_store(settings.tracking_uri))
    return local is not None and has_run(local, run_id)


def _fall_back(settings: Run, spec: RunSpec) -> tuple[Any, str]:
    store, waiting = without_password(settings.tracking_uri), sync.waiting_store(settings.tracking_uri)
    local = store.startswith(SQLITE)
    state, where = ("is held by another process", "there") if local else ("does not answer", "to the server")
    advice = f"{spec.name} is logged to {waiting}; a later run or `blobex sync` copies it {where}"
    print(f"blobex: {store} {state}: {advice}", file=sys.stderr)
    return _open_locally(settings, spec)


def _open_locally(settings: Run, spec: RunSpec) -> tuple[Any, str]:
    """Begin or continue a run of the local store that is meant for the configured one; return its client and id."""
    waiting = sync.waiting_store(settings.tracking_uri)
    client = connect(waiting)
    tags = {**spec.tags, sync.SERVER: without_password(settings.tracking_uri)}
    if spec.run_id is not None and not has_run(client, spec.run_id):
        tags[sync.SERVER_RUN] = spec.run_id
        spec = replace(spec, run_id=None)
    return client, _open_run(client, replace(spec, tags=tags), local_artifacts(waiting, spec.stage))


def _open_run(client: Any, spec: RunSpec, location: str | None) -> str:
    """Return the id of the run to log to: the named one, one of a killed process, or a new one."""
    if spec.run_id is not None:
        if not has_run(client, spec.run_id):
            raise BlobexError(f"MLflow knows no run {spec.run_id}: check resume.run_id, or set resume.source to none")
        return _reopened(client, spec.run_id)
    parent = spec.tags.get(PARENT)
    if parent is not None and has_run(client, parent):
        experiment_id = client.get_run(parent).info.experiment_id
    else:
        experiment_id = experiment_of(client, spec.stage, location)
    killed = None if parent else _run_of_killed_process(client, experiment_id, spec.tags, spec.params)
    if killed is not None:
        return _reopened(client, killed)
    source = {SOURCE: f"blobex/stages/{spec.stage}.py", "mlflow.source.type": "LOCAL"}
    tags = {**spec.tags, **source, COMMIT: git("rev-parse", "HEAD"), PROCESS: this_process()}
    return str(client.create_run(experiment_id, tags=tags, run_name=spec.name).info.run_id)


def _reopened(client: Any, run_id: str) -> str:
    client.update_run(run_id, status="RUNNING")
    client.set_tag(run_id, PROCESS, this_process())
    return run_id


def _run_of_killed_process(
    client: Any, experiment_id: str, tags: Mapping[str, str], params: Mapping[str, str]
) -> str | None:
    """Return the open run of a killed process if its parameters agree; close other open runs of killed processes."""
    chosen: str | None = None
    for candidate in client.search_runs([experiment_id], filter_string="attributes.status = 'RUNNING'"):
        present = candidate.data.tags
        if tags.items() <= present.items() and PARENT not in present and is_gone(present.get(PROCESS, "")):
            if chosen is None and candidate.data.params.items() <= params.items():
                chosen = candidate.info.run_id
            else:
                client.set_terminated(candidate.info.run_id, "KILLED")
    return chosen


@contextmanager
def _ended(tracker: MlflowTracker) -> Iterator[None]:
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def current_run_id(params: Params, run_id: str | None) -> str | None:
    """Return the id under which the store holds a run; None if it was deleted, `run_id` if it cannot be used."""
    settings = params.run
    if settings.tracking_uri == OFF or run_id is None:
        return None
    try:
        client = connect(settings.tracking_uri, settings.s3_endpoint)
        sync.copy_runs(client, settings)
        run_id = sync.copy_of(client, run_id, settings.tracking_uri)
        return run_id if run_id is not None and has_run(client, run_id) else None
    except Exception as error:
        if not lost(error):
            raise
    return run_id


def end_orphans(params: Params, parent: str | None) -> None:
    """Close the nested runs of `parent` whose processes, of this machine, were killed."""
    settings = params.run
    if settings.tracking_uri == OFF or parent is None:
        return
    clients = [sync.local_client(sync.waiting_store(settings.tracking_uri))]
    try:
        clients.append(connect(settings.tracking_uri, settings.s3_endpoint))
        for client in filter(None, clients):
            running = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
            experiments = [experiment.experiment_id for experiment in client.search_experiments()]
            for nested in client.search_runs(experiments, running):
                if is_gone(nested.data.tags.get(PROCESS, "")):
                    client.set_terminated(nested.info.run_id, "KILLED")
    except Exception as error:
        if not lost(error):
            raise


def register_decision(tracker: Tracker, name: str, model: torch.nn.Module, height: int, width: int) -> None:
    """Log a decision model to its run and register it as `name` with the alias of the newest version."""
    if isinstance(tracker, MlflowTracker):
        tracker.log_model(model, name, height, width)


def register_repaired(tracker: Tracker, name: str, model: torch.nn.Module, explanations: str | None) -> None:
    """Log a repaired decision model and register it as `name` with the alias REPAIRED.

    The tag `explanations` of the version names the run, or else the folder, of the explanations that it learnt from.
    """
    if isinstance(tracker, MlflowTracker):
        height, width = (int(model.config[key]) for key in ("height", "width"))  # type: ignore[index]
        tracker.log_model(model, name, height, width, REPAIRED, {EXPLANATIONS: explanations or "unknown"})


def newest_run(params: Params, stage: str, setup: str, variant: str | None = None) -> str | None:
    """Return the id of the newest finished run of a stage, or None without one, or if the store cannot be used."""
    if params.run.tracking_uri == OFF:
        return None
    try:
        client = connect(params.run.tracking_uri, params.run.s3_endpoint)
        experiment = client.get_experiment_by_name(stage)
        if experiment is None:
            return None
        query = f"tags.setup = '{setup}' and attributes.status = 'FINISHED'"
        query += f" and tags.variant = '{variant}'" if variant else ""
        found = client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time DESC"])
        return str(found[0].info.run_id) if found else None
    except Exception as error:
        if not lost(error):
            raise
    return None


def _log_config(tracker: MlflowTracker, params: Params) -> None:
    """Log the resolved configuration: the first file of a run, which shows that its store takes files."""
    try:
        tracker.log_text(yaml.safe_dump(asdict(params), sort_keys=False), "params.yaml")
    except Exception as error:  # each kind of store has its own exceptions
        reason = textwrap.shorten(str(error), 400)
        raise BlobexError(
            f"MLflow cannot keep the run's files ({reason}): check run.artifacts, run.s3_endpoint and your credentials"
        ) from error
