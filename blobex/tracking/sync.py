"""Copies of runs to the store that could not be used when they were logged: a silent server, or a held database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blobex.config.data import Run
from blobex.core.errors import brief
from blobex.core.files import without_password
from blobex.core.processes import is_gone, locked
from blobex.tracking.places import SQLITE, database, local_path
from blobex.tracking.store import ALIAS, artifact_location, connect, experiment_of, has_run, lost

LOCAL = f"{SQLITE}mlruns/mlflow.db"
WAITING = "waiting/mlflow.db"  # beside a local database
PARENT, PROCESS = "mlflow.parentRunId", "process"  # tags of all runs
SERVER = "blobex.server"  # tag of a local run: the store that it is meant for
SERVER_RUN = "blobex.server_run"  # tag of a local run: run of that store that it continues
COPIED = "blobex.copied_to"  # tag of a local run: its copy
SOURCE = "blobex.copied_from"  # tag of a copy: the local run
BATCH = 100  # parameters or tags in one request; MLflow takes 1000 metrics
Client = Any


def copy_runs(server: Client, settings: Run) -> int:
    """Copy the local runs that are meant for this store and no longer written; return their number.

    A copy that was interrupted is completed by the next call, without duplicates.
    """
    waiting = waiting_store(settings.tracking_uri)
    local, count = local_client(waiting), 0
    if local is None:
        return 0
    with locked(database(waiting).parent / ".sync.lock"):
        for run in _waiting(local, without_password(settings.tracking_uri)):
            run_id = run.info.run_id
            try:
                copy = _copy(local, server, run, settings)
            except Exception as error:
                if lost(error):
                    raise
                print(f"blobex: run {run_id} of {waiting} cannot be copied ({brief(error)})", file=sys.stderr)
                continue
            local.set_tag(run_id, COPIED, copy)
            if run.info.status == "RUNNING":  # its process was killed; the copy is the run to continue
                local.set_terminated(run_id, "KILLED")
            target = settings.tracking_uri if settings.tracking_uri.startswith(SQLITE) else "the server"
            print(f"blobex: copied run {run_id} of {waiting} to {target}, as {copy}", file=sys.stderr)
            count += 1
    return count


def copy_of(server: Client, run_id: str | None, uri: str) -> str | None:
    """Return the id of a run's copy in the store `uri` if it was logged locally, else its own id."""
    local = local_client(waiting_store(uri))
    if run_id is None or local is None or has_run(server, run_id) or not has_run(local, run_id):
        return run_id
    return str(local.get_run(run_id).data.tags.get(COPIED, run_id))


def waiting_store(uri: str) -> str:
    """Return the local store of the runs that are meant for `uri` while it cannot be used."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).parent / WAITING}" if uri.startswith(SQLITE) else LOCAL


def local_client(store: str = LOCAL) -> Client | None:
    """Connect to a local store; None if nothing was ever logged there."""
    return connect(store) if database(store).is_file() else None


def _waiting(local: Client, server: str) -> list[Any]:
    """Return the runs to copy to a server, parents before their nested runs, the oldest first."""
    experiments = [experiment.experiment_id for experiment in local.search_experiments()]
    runs, token = [], None
    while True:
        page = local.search_runs(experiments, f"tags.`{SERVER}` = '{server}'", page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    waiting = [run for run in runs if COPIED not in run.data.tags]
    ended = [r for r in waiting if r.info.status != "RUNNING" or is_gone(r.data.tags.get(PROCESS, ""))]
    return sorted(ended, key=lambda run: (PARENT in run.data.tags, run.info.start_time))


def _copy(local: Client, server: Client, run: Any, settings: Run) -> str:
    """Copy one run; return the id of the copy."""
    from mlflow.entities import Param, RunTag

    run_id, tags = run.info.run_id, dict(run.data.tags)
    if PARENT in tags and has_run(local, tags[PARENT]):
        tags[PARENT] = local.get_run(tags[PARENT]).data.tags.get(COPIED, tags[PARENT])
    target = _target(local, server, run, settings)
    for batch in _batches([Param(*item) for item in run.data.params.items()], BATCH):
        server.log_batch(target, params=batch, synchronous=True)
    own = (SERVER, SERVER_RUN, "mlflow.runName")
    for batch in _batches([RunTag(*item) for item in tags.items() if item[0] not in own], BATCH):
        server.log_batch(target, tags=batch, synchronous=True)
    for key in run.data.metrics:
        for batch in _batches(local.get_metric_history(run_id, key), 1000):
            server.log_batch(target, metrics=batch, synchronous=True)
    if run.inputs.dataset_inputs:
        server.log_inputs(target, datasets=run.inputs.dataset_inputs)
    if local.list_artifacts(run_id):
        server.log_artifacts(target, local.download_artifacts(run_id, ""))
    _copy_models(local, server, run, target)
    if run.info.status == "RUNNING":
        server.update_run(target, status="RUNNING")
    else:
        server.set_terminated(target, run.info.status, run.info.end_time)
    return target


def _target(local: Client, server: Client, run: Any, settings: Run) -> str:
    """Return the run of the server to copy to: the one that is continued, an unfinished copy, or a new run."""
    continued = run.data.tags.get(SERVER_RUN)
    if continued and has_run(server, continued):
        return str(continued)
    stage = local.get_experiment(run.info.experiment_id).name.partition(" (")[0]
    experiment = experiment_of(server, stage, artifact_location(settings, stage))
    begun = server.search_runs([experiment], f"tags.`{SOURCE}` = '{run.info.run_id}'")
    if begun:
        return str(begun[0].info.run_id)
    created = server.create_run(experiment, run.info.start_time, {SOURCE: run.info.run_id}, run.info.run_name)
    return str(created.info.run_id)


def _copy_models(local: Client, server: Client, run: Any, target: str) -> None:
    """Copy the files of a run's models and register them under the same names."""
    import mlflow
    from mlflow.exceptions import MlflowException

    experiment = server.get_run(target).info.experiment_id
    for model in local.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"):
        copies = server.search_logged_models([experiment], f"source_run_id = '{target}' and name = '{model.name}'")
        if any(str(copy.status) == "READY" for copy in copies):
            continue
        copy = server.create_logged_model(experiment, model.name, target, model.tags, model.params, model.model_type)
        server.log_model_artifacts(copy.model_id, str(local_path(model.artifact_location)))
        try:
            server.create_registered_model(model.name)
        except MlflowException as error:  # it exists
            if lost(error):
                raise
        source = f"models:/{copy.model_id}"
        mlflow.set_tracking_uri(server.tracking_uri)  # the store in which a local registry looks up the source
        server.finalize_logged_model(copy.model_id, "READY")
        version = server.create_model_version(model.name, source, target, model_id=copy.model_id)
        server.set_registered_model_alias(model.name, ALIAS, version.version)


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
