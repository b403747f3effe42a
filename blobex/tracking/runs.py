"""Tracked runs: one experiment per stage, one run per stage and setup."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from blobex.config.data import Run
from blobex.config.params import Params
from blobex.config.read import flatten, to_dict
from blobex.core.device import is_first_process
from blobex.core.errors import BlobexError, brief
from blobex.core.files import without_password
from blobex.core.processes import is_gone, this_process
from blobex.tracking.pending import Kept, PatientTracker, Planned, listed, now
from blobex.tracking.store import (
    OFF,
    SERVERS,
    MlflowTracker,
    artifact_location,
    connect,
    experiment_of,
    has_run,
    lost,
    reopen,
)
from blobex.tracking.tracker import NullTracker, Tracker
from blobex.tracking.versions import dvc_hash, git

PROCESS, PARENT, COMMIT, KEPT = "process", "mlflow.parentRunId", "mlflow.source.git.commit", "kept"  # tags


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
    of several processes only the first one tracks. BlobexError if the store cannot be used or takes no files: before
    the block, so before hours of training. What a server that does not answer should know is kept in `mlruns/pending`.
    """
    if params.run.tracking_uri == OFF or not is_first_process():
        yield NullTracker()
        return
    values = flatten(getattr(params, stage), f"{stage}.") | flatten(params.run, "run.")
    tags = {"setup": setup, **({"variant": variant} if variant else {})}
    name = "-".join([stage, setup, *filter(None, [variant])])
    tracker = _begun(params.run, _planned(params.run, stage, name, tags, values, run_id))
    with _ended(tracker):
        if run_id is None:  # a continued run may have others: they cannot be logged anew
            tracker.log_params(values)
        _log_config(tracker, params)
        if data is not None:
            _log_dataset(tracker, data)
        yield tracker
    _send_own(params.run, tracker)


@contextmanager
def child(params: Params, parent: str | None, name: str, values: Mapping[str, Any]) -> Iterator[Tracker]:
    """A run within the run `parent`, of which it shares the experiment; it ends as the block does.

    Without a parent, or without tracking, nothing is tracked.
    """
    if params.run.tracking_uri == OFF or parent is None:
        yield NullTracker()
        return
    tracker = _begun(params.run, _planned(params.run, "", name, {PARENT: parent}, values, None))
    with _ended(tracker):
        tracker.log_params(values)
        yield tracker
    _send_own(params.run, tracker)


def _planned(
    settings: Run, stage: str, name: str, tags: dict[str, str], values: Mapping[str, Any], run_id: str | None
) -> Planned:
    marks = {COMMIT: git("rev-parse", "HEAD"), PROCESS: this_process()}
    known = {key: str(value) for key, value in values.items()}
    return Planned(without_password(settings.tracking_uri), stage, name, tags, known, marks, run_id, now())


def _begun(settings: Run, planned: Planned) -> MlflowTracker | PatientTracker:
    """The tracker of a run that begins or goes on; that of a server is patient, and what was kept is sent first."""
    if not settings.tracking_uri.startswith(SERVERS):
        client = connect(settings.tracking_uri, settings.s3_endpoint)
        return MlflowTracker(client, _open_run(client, settings, planned))
    tracker = None
    try:
        client = connect(settings.tracking_uri, settings.s3_endpoint)
        send_kept(client, settings)
        tracker = MlflowTracker(client, _open_run(client, settings, planned))
    except Exception as error:
        if not lost(error):
            raise
    return PatientTracker(tracker, planned, lost)


def _send_own(settings: Run, tracker: MlflowTracker | PatientTracker) -> None:
    """A run is over: the server may be there again."""
    if isinstance(tracker, PatientTracker) and tracker.kept:
        try:
            send_kept(connect(settings.tracking_uri, settings.s3_endpoint), settings)
        except Exception as error:
            if not lost(error):
                raise


def send_kept(client: Any, settings: Run) -> int:
    """Send the runs that were kept for this server, and forget them; how many there were.

    One that was sent in part is sent again: the server has everything once in the end, but perhaps pictures twice.
    """
    sent = 0
    for kept in listed(without_password(settings.tracking_uri)):
        try:
            run_id = _run_of(client, settings, kept)
            tracker = MlflowTracker(client, run_id)
            for call, arguments in kept.calls():
                getattr(tracker, call)(**arguments)
        except Exception as error:
            kept.close()
            if lost(error):
                raise
            print(f"blobex: {kept.folder} cannot be sent ({brief(error)}): look into it, or remove it", file=sys.stderr)
            continue
        print(f"blobex: sent what {kept.folder} kept, to run {run_id}", file=sys.stderr)
        kept.remove()
        sent += 1
    return sent


def _run_of(client: Any, settings: Run, kept: Kept) -> str:
    """The run of what was kept: that which the server knows already, or a new one."""
    planned, name = kept.planned, kept.folder.name
    if planned.run_id is not None and reopen(client, planned.run_id):
        return planned.run_id
    experiment_id, tags = _place(client, settings, planned)
    begun = client.search_runs([experiment_id], filter_string=f"tags.{KEPT} = '{name}'")
    return begun[0].info.run_id if begun else _create(client, experiment_id, planned, {**tags, KEPT: name})


@contextmanager
def _ended(tracker: MlflowTracker | PatientTracker) -> Iterator[None]:
    """The run ends as the block does: FINISHED, KILLED if someone stops it, or FAILED."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.end(status)


def end(params: Params, run_id: str | None, status: str) -> None:
    """Close a run whose process is gone, if the tracker still knows it, and answers."""
    try:
        if known(params, run_id) is not None:
            connect(params.run.tracking_uri, params.run.s3_endpoint).set_terminated(run_id, status)
    except Exception as error:
        if not lost(error):
            raise


def end_orphans(params: Params, parent: str | None) -> None:
    """Close the runs within `parent` whose processes, of this machine, are gone, if the tracker answers."""
    try:
        if known(params, parent) is None:
            return
        client = connect(params.run.tracking_uri, params.run.s3_endpoint)
        running = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
        for run in client.search_runs([client.get_run(parent).info.experiment_id], running):
            if is_gone(run.data.tags.get(PROCESS, "")):
                client.set_terminated(run.info.run_id, "KILLED")
    except Exception as error:
        if not lost(error):
            raise


def known(params: Params, run_id: str | None) -> str | None:
    """The run's id if the tracker knows such a run, or does not answer; else None."""
    if params.run.tracking_uri == OFF or run_id is None:
        return None
    try:
        client = connect(params.run.tracking_uri, params.run.s3_endpoint)
        return run_id if has_run(client, run_id) else None
    except Exception as error:
        if not lost(error):
            raise
    return run_id


def register_decision(
    tracker: Tracker, params: Params, name: str, model: torch.nn.Module, height: int, width: int
) -> None:
    """Log a decision model to its run and register it as `name` with the alias of the newest one trained."""
    if isinstance(tracker, MlflowTracker | PatientTracker):
        tracker.log_model(model, name, height, width)


def _open_run(client: Any, settings: Run, planned: Planned) -> str:
    run_id = planned.run_id
    if run_id is None:
        experiment_id, tags = _place(client, settings, planned)
        run_id = None if PARENT in tags else _left_open(client, experiment_id, tags, planned.values)
        if run_id is None:
            return _create(client, experiment_id, planned, tags)
    elif not reopen(client, run_id):
        raise BlobexError(f"MLflow knows no run {run_id}: check resume.run_id, or set resume.source to none")
    client.set_tag(run_id, PROCESS, planned.marks[PROCESS])
    return run_id


def _place(client: Any, settings: Run, planned: Planned) -> tuple[str, dict[str, str]]:
    """The experiment where a run belongs, and the tags that say whose work it is."""
    if PARENT not in planned.tags:
        return experiment_of(client, planned.stage, artifact_location(settings, planned.stage)), planned.tags
    above = client.get_run(planned.tags[PARENT])
    return above.info.experiment_id, {**planned.tags, "setup": above.data.tags.get("setup", "")}


def _create(client: Any, experiment_id: str, planned: Planned, tags: Mapping[str, str]) -> str:
    run: str = client.create_run(experiment_id, planned.begun, {**planned.marks, **tags}, planned.name).info.run_id
    return run


def _left_open(client: Any, experiment_id: str, tags: Mapping[str, str], values: Mapping[str, str]) -> str | None:
    """The open run of a process that is gone, if it had these values; with other values it is ended as killed."""
    chosen = None
    for run in client.search_runs([experiment_id], filter_string="attributes.status = 'RUNNING'"):
        known = run.data.tags
        if tags.items() <= known.items() and PARENT not in known and is_gone(known.get(PROCESS, "")):
            if chosen is None and run.data.params.items() <= values.items():
                chosen = run.info.run_id
            else:
                client.set_terminated(run.info.run_id, "KILLED")
    return chosen


def _log_config(tracker: MlflowTracker | PatientTracker, params: Params) -> None:
    """The first file of a run, which shows whether its place takes any."""
    try:
        tracker.log_text(yaml.safe_dump(to_dict(params), sort_keys=False), "params.yaml")
    except Exception as error:  # each kind of place has errors of its own
        reason = textwrap.shorten(str(error), 400)
        raise BlobexError(
            f"MLflow cannot keep the run's files ({reason}): check run.artifacts, run.s3_endpoint and your credentials"
        ) from error


def _log_dataset(tracker: MlflowTracker | PatientTracker, data: Path) -> None:
    tracker.log_dataset(name=data.stem, digest=dvc_hash(data)[:36], source=str(data))
