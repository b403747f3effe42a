"""A study: its settings, which trials count, and what becomes of a trial whose worker died."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from blobex.config.sweeps import Range, Sweep
from blobex.core.errors import BlobexError
from blobex.sweeps import space
from blobex.sweeps.storage import Place, open_storage
from blobex.sweeps.task import Task

TRIES = 8  # of one trial whose worker dies each time: memory may be short for it, or it was bad luck
STARTUP = 8  # random trials before the sampler thinks
SILENT = "its worker went silent"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Opened:
    """A study with its storage."""

    study: optuna.Study
    storage: BaseStorage
    place: Place

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def space(self) -> dict[str, Range]:
        """The search space, as it was when the study began."""
        return space.from_json(self.study.user_attrs["space"])

    def close(self) -> None:
        """End the connections to a database; the next use begins new ones."""
        if isinstance(self.storage, RDBStorage):
            self.storage.remove_session()
            self.storage.engine.dispose()


def begin(task: Task, place: Place, name: str) -> Opened:
    """The study of this name, made if there is none, with the task's starts as its first trials.

    What a sampler learns from must be comparable: BlobexError if the study that is there is of another task, space or
    mode, or of other pictures or weights. Sampler and pruner may change from one resumption to the next.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = space.checked(task.space, task.section)
    storage = open_storage(place, put_back_silent)
    pareto = task.options.mode == "pareto"
    directions: Sequence[Literal["minimize", "maximize"]]
    directions = list(task.directions.values()) if pareto else ["minimize"]
    wanted = {"task": task.section, "setup": task.setup, "mode": task.options.mode, "space": space.to_json(chosen)}
    wanted = json.loads(json.dumps(wanted | task.identity()))
    with place.claimed():
        try:
            study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True, pruner=NopPruner()
            )
        except ValueError as error:
            raise BlobexError(f"the study {name} cannot be opened ({error}): give another --name") from error
        known = study.user_attrs.get("identity")
        if known is not None and known != wanted:
            other = next(key for key in {**known, **wanted} if known.get(key) != wanted.get(key))
            raise BlobexError(f"the study {name} was begun with another {other}: give another --name")
        if known is None:
            study.set_user_attr("space", space.to_json(space.widened(chosen, task.starts())))
            study.set_user_attr("identity", wanted)
        opened = Opened(study, storage, place)
        _enqueue_starts(opened, task)
    return opened


def _enqueue_starts(opened: Opened, task: Task) -> None:
    named = {trial.user_attrs.get("name") for trial in opened.trials()}
    for name, values in task.starts().items():
        if name not in named:
            opened.study.enqueue_trial(space.inside(opened.space(), values), user_attrs={"name": name})


def counted(trials: Sequence[FrozenTrial]) -> int:
    """How many trials are done or being done; one that was put back counts only once it is tried again."""
    again = {trial.user_attrs.get("again") for trial in trials}
    return sum(
        trial.state in (*FINISHED, TrialState.RUNNING)
        and not (trial.state == TrialState.FAIL and (trial.number in again or trial.user_attrs.get("killed")))
        for trial in trials
    )


def sampler(options: Sweep, number: int) -> BaseSampler:
    """The sampler of a trial. Its random numbers depend on the seed and the trial alone, not on who runs it."""
    seed = int(np.random.SeedSequence([options.seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if options.sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP)
        if options.sampler == "tpe":
            return TPESampler(seed=seed, n_startup_trials=STARTUP)
        return RandomSampler(seed=seed)


def pruner(options: Sweep) -> BasePruner:
    """Which trials are hopeless; several objectives have no order to tell."""
    if options.mode == "pareto" or options.pruner == "none":
        return NopPruner()
    if options.pruner == "median":
        return MedianPruner(n_startup_trials=STARTUP // 2, n_min_trials=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return WilcoxonPruner(p_threshold=0.05, n_startup_steps=6)


def recover(opened: Opened, ends: Mapping[int, int] = MappingProxyType({})) -> list[FrozenTrial]:
    """Record as failed the trials whose workers are dead, and put them back; call it within `Place.claimed`.

    `ends` are exit statuses by process number, as far as they are known; negative: the signal. It may itself be killed
    at any point and called again: a trial is put back once.
    """
    study, place = opened.study, opened.place
    lost, running = [], study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        worker = trial.user_attrs.get("worker")
        if place.is_dead(worker):
            put_back(opened, trial, _death(worker, ends))
            study.tell(trial.number, state=TrialState.FAIL)
            place.forget(worker)
            lost.append(trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if "reason" not in trial.user_attrs:  # silent ones: whoever recorded it may have come no further
            put_back_silent(study, trial)
            lost += [known for known in running if known.number == trial.number]
    return lost


def reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None if it did not."""
    return str(trial.user_attrs.get("reason", SILENT)) if trial.state == TrialState.FAIL else None


def _death(worker: list[str] | None, ends: Mapping[int, int]) -> str:
    """What is known of a worker's end."""
    status = ends.get(int(worker[1].partition("-")[0]), 0) if worker else 0
    if status == -signal.SIGKILL:
        return "its worker was killed (SIGKILL: by hand, or by the system as memory was short)"
    return f"its worker was killed ({signal.Signals(-status).name})" if status < 0 else "its worker was killed"


def put_back(opened: Opened, trial: FrozenTrial, why: str) -> None:
    """Note why a running trial fails through no fault of its own, and enqueue its values."""
    again = _enqueue_again(opened.study, trial, why)
    if again:
        opened.storage.set_trial_user_attr(trial._trial_id, "killed", True)
    else:
        why = f"{why}, as in {TRIES - 1} tries before"
    opened.storage.set_trial_user_attr(trial._trial_id, "reason", why)


def put_back_silent(study: optuna.Study, trial: FrozenTrial) -> None:
    """For trials in a database whose worker, at whatever machine, went silent; Optuna has recorded them as failed."""
    _enqueue_again(study, trial, SILENT)


def _enqueue_again(study: optuna.Study, trial: FrozenTrial, why: str) -> bool:
    """Whether the trial will be tried again; one that had no values yet leaves its turn to another."""
    values = trial.system_attrs.get("fixed_params", {}) | trial.params
    tries = trial.user_attrs.get("tries", 1)
    if tries >= TRIES:
        return False
    known = {other.user_attrs.get("again") for other in study.get_trials(deepcopy=False)}
    if values and trial.number not in known:
        carried: dict[str, Any] = {key: trial.user_attrs[key] for key in ("name",) if key in trial.user_attrs}
        attributes = {"again": trial.number, "again_because": why, "tries": tries + 1}
        study.enqueue_trial(values, user_attrs=carried | attributes)
    return True
