"""Work of one process of a sweep: take a trial, run it, and record its outcome, until all trials are taken."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import optuna
from optuna.trial import Trial

from blobex.config.params import Params
from blobex.config.sweeps import Range
from blobex.core.errors import BlobexError
from blobex.core.processes import this_process
from blobex.datasets.images import write_png
from blobex.sweeps.study import OpenStudy, pruner, retry, sampler
from blobex.sweeps.task import Number, Outcome, Task
from blobex.sweeps.trials import whole_trials
from blobex.tracking import runs as tracking
from blobex.tracking.tracker import Tracker

SUPERVISOR = "BLOBEX_SUPERVISOR"  # environment variable with the process id of the sweep that started this worker


class TrialError(Exception):
    """Failure of a trial; the study goes on."""


def work(
    opened: OpenStudy, task: Task, params: Params, goal: int, after_each: Callable[[], object] = lambda: None
) -> None:
    """Run trials until `goal` of them are finished or running, or until the sweep that started this process is gone."""
    parent = int(os.environ.get(SUPERVISOR, os.getppid()))
    while os.getppid() == parent and _run_next(opened, task, params, goal):
        after_each()


def _run_next(opened: OpenStudy, task: Task, params: Params, goal: int) -> bool:
    """Run the next trial; return False if none is left. Trials are counted and taken by one process at a time."""
    study = opened.study
    with ExitStack() as exclusive:
        exclusive.enter_context(opened.folder.exclusive())
        if opened.counted() >= goal:
            return False
        study.sampler, study.pruner = sampler(task.options, len(opened.trials())), pruner(task.options)
        space = opened.space()

        def objective(trial: Trial) -> float | tuple[float, ...]:
            values = {name: _suggested(trial, name, entry) for name, entry in space.items()}
            trial.set_user_attr("worker", this_process())
            exclusive.close()
            return _run(opened, task, params, trial, values)

        study.optimize(objective, n_trials=1, catch=(TrialError,))
    return True


def _suggested(trial: Trial, name: str, entry: Range) -> Number:
    if entry.whole:
        return trial.suggest_int(name, round(entry.low), round(entry.high), log=entry.log)
    return trial.suggest_float(name, entry.low, entry.high, log=entry.log)


def _run(
    opened: OpenStudy, task: Task, params: Params, trial: Trial, values: Mapping[str, Number]
) -> float | tuple[float, ...]:
    """Run a trial; return the value or values that Optuna optimises."""
    settings = task.settings(values)
    trial.set_user_attr("settings", settings)
    parent = opened.study.user_attrs.get("run_id")
    try:
        with tracking.child(
            params, parent, task.section, task.setup, str(trial.number), task.keys(settings)
        ) as tracker:
            outcome = task.measure(settings, _Reporter(trial))
            if not math.isfinite(outcome.loss):
                raise BlobexError(f"the loss is {outcome.loss}")
            _record(opened, trial, outcome, tracker)
    except KeyboardInterrupt:
        retry(opened, opened.trials()[trial.number], "it was interrupted")
        raise
    except Exception as error:  # whatever the values do to the networks, the other trials go on
        reason = str(error) if isinstance(error, BlobexError) else f"{type(error).__name__}: {error}"
        trial.set_user_attr("reason", " ".join(reason.split())[:500])
        raise TrialError(reason) from error
    if len(opened.study.directions) > 1:
        return tuple(outcome.measures[name] for name in task.directions)
    if outcome.stopped_after is None:
        return outcome.loss
    # A loss on the first instances is no record: Optuna learns at least the least loss of a whole trial.
    losses = [whole.user_attrs["loss"] for whole in whole_trials(opened.trials())]
    return max(outcome.loss, min(losses, default=outcome.loss))


def _record(opened: OpenStudy, trial: Trial, outcome: Outcome, tracker: Tracker) -> None:
    """Store the outcome of a trial in the study, in the folder and in its tracked run."""
    for name, value in outcome.limits.items():
        trial.set_constraint(name, value)
    trial.set_user_attr("loss", outcome.loss)
    trial.set_user_attr("measures", outcome.measures)
    trial.set_user_attr("stopped_after", outcome.stopped_after)
    limits = {f"over_{name}": value for name, value in outcome.limits.items()}
    tracker.log_metrics({"loss": outcome.loss, **outcome.measures, **limits})
    if outcome.image is not None:
        path = opened.folder.path / "trials" / f"{trial.number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, outcome.image)
        tracker.log_artifact(path)


class _Reporter:
    """Reports a trial's losses to Optuna's pruner.

    Wilcoxon's test compares them instance by instance with the best trial; the median pruner compares means. A trial
    that is stopped is completed with the loss so far rather than pruned, as a Gaussian process learns nothing from
    pruned trials. Starting values are never stopped, as the best is compared with them, nor are several objectives.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial, self.losses = trial, dict[int, float]()

    def __call__(self, losses: Mapping[int, float], late: bool = False, /) -> bool:
        study = self.trial.study
        if len(study.directions) > 1:
            return False
        self.losses |= losses
        if isinstance(study.pruner, optuna.pruners.WilcoxonPruner):
            for instance, loss in losses.items():
                self.trial.report(loss, instance)
        else:
            self.trial.report(sum(self.losses.values()) / len(self.losses), max(self.losses))
        return "name" not in self.trial.user_attrs and (late or self.trial.should_prune())
