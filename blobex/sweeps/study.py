"""Study of a sweep: its search space, its queue of trials, and the retry of trials whose workers died."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from blobex.config.sweeps import Range, Sweep
from blobex.core.errors import BlobexError
from blobex.core.processes import is_gone
from blobex.sweeps.storage import StudyFolder, open_storage, retry_callback
from blobex.sweeps.task import Direction, Number, Task
from blobex.sweeps.trials import FINISHED, retried

STARTUP = 8  # random trials before the sampler uses a model
KILLED = "its worker was killed, by hand or by the system as memory was short"


@dataclasses.dataclass(frozen=True)
class OpenStudy:
    """Study with its storage and folder."""

    study: optuna.Study
    storage: BaseStorage
    folder: StudyFolder

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def space(self) -> dict[str, Range]:
        """Return the search space, as it was when the study began."""
        return {name: Range(**entry) for name, entry in self.study.user_attrs["space"].items()}

    def counted(self) -> int:
        """Return the number of trials that are finished or running; one that is tried again counts once."""
        trials = self.trials()
        again = retried(trials)
        return sum(t.state in (*FINISHED, TrialState.RUNNING) and t.number not in again for t in trials)

    def close(self) -> None:
        """Close the connections to a database."""
        if isinstance(self.storage, RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()


def begin(task: Task, folder: StudyFolder, name: str) -> OpenStudy:
    """Open the study of this name, or create it with the task's starting values as its first trials.

    Raises:
        BlobexError: if the study is of another task, space or mode, or of other data or weights, as its losses could
            not be compared. Sampler and pruner may change.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    check_space(task.space, task.section)
    storage = open_storage(folder)
    pareto = task.options.mode == "pareto"
    directions: list[Direction] = list(task.directions.values()) if pareto else ["minimize"]
    identity: dict[str, Any] = {"task": task.section, "setup": task.setup, "mode": task.options.mode}
    identity = json.loads(json.dumps(identity | {"space": _as_json(task.space)} | task.identity()))
    with folder.exclusive():
        try:
            study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True, pruner=NopPruner()
            )
        except ValueError as error:
            raise BlobexError(f"the study {name} cannot be opened ({error}): give another --name") from error
        present = study.user_attrs.get("identity")
        if present is not None and present != identity:
            other = next(key for key in {**present, **identity} if present.get(key) != identity.get(key))
            raise BlobexError(f"the study {name} was begun with another {other}: give another --name")
        if present is None:
            study.set_user_attr("space", _as_json(widen(task.space, task.starts())))
            study.set_user_attr("identity", identity)
        opened = OpenStudy(study, storage, folder)
        _enqueue_starts(opened, task)
    return opened


def _enqueue_starts(opened: OpenStudy, task: Task) -> None:
    queued = {trial.user_attrs.get("name") for trial in opened.trials()}
    for name, values in task.starts().items():
        if name not in queued:
            opened.study.enqueue_trial(clamp(opened.space(), values), user_attrs={"name": name})


def sampler(options: Sweep, number: int) -> BaseSampler:
    """Return the sampler of one trial; its random numbers depend on the seed and the trial's number alone."""
    seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        if options.sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP)
        if options.sampler == "tpe":
            return TPESampler(seed=seed, n_startup_trials=STARTUP)
        return RandomSampler(seed=seed)


def pruner(options: Sweep) -> BasePruner:
    """Return the pruner; Optuna has none for several objectives."""
    if options.mode == "pareto" or options.pruner == "none":
        return NopPruner()
    if options.pruner == "median":
        return MedianPruner(n_startup_trials=STARTUP // 2, n_min_trials=3)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return WilcoxonPruner(p_threshold=0.05, n_startup_steps=6)


def recover(opened: OpenStudy) -> None:
    """Fail the trials whose workers, of this machine, are gone, or whose heartbeat stopped, and queue them again.

    Call it within `StudyFolder.exclusive`, under which workers note their name: a running trial without one is lost.
    """
    for trial in opened.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get("worker")
        if worker is None or is_gone(worker):
            retry(opened, trial, KILLED)
            opened.study.tell(trial.number, state=TrialState.FAIL)
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        optuna.storages.fail_stale_trials(opened.study)


def retry(opened: OpenStudy, trial: FrozenTrial, reason: str) -> None:
    """Queue the values of a running trial again, once, and note why the trial fails."""
    if trial.number not in retried(opened.trials()):
        retry_callback()(opened.study, copy.deepcopy(trial))  # it appends to the history that it is given
    opened.storage.set_trial_user_attr(trial._trial_id, "reason", reason)


def check_space(space: Mapping[str, Range], section: str) -> None:
    """Raise BlobexError if a range is empty or if two entries of it depend on each other."""
    if not space:
        raise BlobexError(f"{section}.space is empty: name at least one value to look for")
    for name, entry in space.items():
        if entry.low >= entry.high:
            raise BlobexError(
                f"{section}.space.{name} goes from {entry.low:g} to {entry.high:g}: low must be below high"
            )
        if entry.log and entry.low <= 0:
            raise BlobexError(f"{section}.space.{name} is logarithmic, so low must be above 0")
        if entry.whole and (entry.low % 1 or entry.high % 1):
            raise BlobexError(f"{section}.space.{name} is of whole numbers, so low and high must be such")
    if {"travel", "learning_rate"} <= set(space):
        raise BlobexError(f"{section}.space has travel, which is learning_rate * steps: leave learning_rate out")


def widen(space: Mapping[str, Range], starts: Mapping[str, Mapping[str, Number]]) -> dict[str, Range]:
    """Widen the ranges to hold the starting values; a logarithmic range is not widened to 0."""
    wide = {}
    for name, entry in space.items():
        values = [float(start[name]) for start in starts.values() if not (entry.log and start[name] <= 0)]
        wide[name] = dataclasses.replace(entry, low=min([entry.low, *values]), high=max([entry.high, *values]))
    return wide


def clamp(space: Mapping[str, Range], values: Mapping[str, Number]) -> dict[str, Number]:
    """Clamp values to their ranges."""
    inside = {name: min(max(values[name], entry.low), entry.high) for name, entry in space.items()}
    return {name: round(value) if space[name].whole else float(value) for name, value in inside.items()}


def _as_json(space: Mapping[str, Range]) -> dict[str, Any]:
    return {name: dataclasses.asdict(entry) for name, entry in space.items()}
