"""One process's share of a sweep: take a trial, try it, tell what came of it, until all are taken."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import optuna
from optuna.trial import Trial, TrialState

from blobex.config.params import Params
from blobex.config.sweeps import Range
from blobex.core.errors import BlobexError
from blobex.datasets.images import write_png
from blobex.sweeps.study import Opened, counted, pruner, put_back, sampler
from blobex.sweeps.task import Number, Outcome, Task
from blobex.tracking import runs as tracking
from blobex.tracking.tracker import Tracker

SUPERVISOR = "BLOBEX_SUPERVISOR"  # the number of the process that watches over its workers


class TrialError(Exception):
    """A trial came to nothing; the study goes on."""


def work(
    opened: Opened, task: Task, params: Params, goal: int, after_each: Callable[[], object] = lambda: None
) -> None:
    """Try trials until `goal` of them are done or being done, or whoever started this process is gone.

    Who that was, SUPERVISOR in the environment tells: it may be gone before this is called.
    """
    parent = int(os.environ.get(SUPERVISOR, os.getppid()))
    with opened.place.alive() as worker:
        while os.getppid() == parent and _next(opened, task, params, goal, worker):
            after_each()


def picture_path(folder: Path, number: int) -> Path:
    """Where the best and the worst of a trial are shown."""
    return folder / "trials" / f"{number}.png"


def _next(opened: Opened, task: Task, params: Params, goal: int, worker: list[str]) -> bool:
    """Whether there was a trial left to try.

    Trials are counted, taken, given values and signed by one process at a time.
    """
    study = opened.study
    with ExitStack() as claim:
        claim.enter_context(opened.place.claimed())
        trials = opened.trials()
        if counted(trials) >= goal:
            return False
        study.sampler, study.pruner = sampler(task.options, len(trials)), pruner(task.options)
        space = opened.space()

        def objective(trial: Trial) -> float | tuple[float, ...]:
            values = {name: _suggested(trial, name, each) for name, each in space.items()}
            trial.set_user_attr("worker", worker)
            claim.close()
            return _try(opened, task, params, trial, values)

        study.optimize(objective, n_trials=1, catch=(TrialError,))
    return True


def _suggested(trial: Trial, name: str, each: Range) -> Number:
    if each.whole:
        return trial.suggest_int(name, round(each.low), round(each.high), log=each.log)
    return trial.suggest_float(name, each.low, each.high, log=each.log)


def _try(
    opened: Opened, task: Task, params: Params, trial: Trial, values: Mapping[str, Number]
) -> float | tuple[float, ...]:
    settings = task.settings(values)
    trial.set_user_attr("settings", settings)
    parent = opened.study.user_attrs.get("run_id")
    try:
        with tracking.child(params, parent, task.section, task.setup, str(trial.number), task.keys(settings)) as run:
            trial.set_user_attr("run_id", run.run_id)
            outcome = task.measure(settings, _Reporter(trial))
            if not math.isfinite(outcome.loss):
                raise BlobexError(f"the loss is {outcome.loss}")
            _tell(opened, trial, outcome, run)
    except KeyboardInterrupt:
        put_back(opened, opened.trials()[trial.number], "it was interrupted")
        raise
    except Exception as error:  # a trial must not take the others along, whatever its values do to the networks
        reason = str(error) if isinstance(error, BlobexError) else f"{type(error).__name__}: {error}"
        trial.set_user_attr("reason", " ".join(reason.split())[:500])
        raise TrialError(reason) from error
    if len(opened.study.directions) > 1:
        return tuple(outcome.objectives[name] for name in task.directions)
    return outcome.loss if outcome.stopped_after is None else max(outcome.loss, _least(opened))


def _least(opened: Opened) -> float:
    """The smallest loss of the trials that went to their end."""
    ended = [trial.user_attrs for trial in opened.trials() if trial.state == TrialState.COMPLETE]
    return min((each["loss"] for each in ended if each["stopped_after"] is None), default=-math.inf)


def _tell(opened: Opened, trial: Trial, outcome: Outcome, run: Tracker) -> None:
    """Note all about a trial: in the study, in the folder and in the tracker."""
    for name, missed in outcome.limits.items():
        trial.set_constraint(name, missed)
    trial.set_user_attr("loss", outcome.loss)
    trial.set_user_attr("measures", outcome.measures)
    trial.set_user_attr("stopped_after", outcome.stopped_after)
    run.log_metrics({"loss": outcome.loss, **outcome.measures, **_named("over", outcome.limits)})
    if outcome.picture is not None:
        path = picture_path(opened.place.folder, trial.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, outcome.picture)
        run.log_artifact(path)


def _named(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}


class _Reporter:
    """Tells Optuna how a trial goes, and asks whether it is hopeless.

    Wilcoxon's test compares instance by instance with the best trial; the median is of the mean so far. A trial that is
    stopped is not told as pruned, but with what it had reached: a Gaussian process learns nothing of pruned ones. What
    it had reached on easy instances is no record: the least loss of a whole trial is the least that it is told with.
    Nothing stops a trial that the study began with, as the best is compared with it, nor any with several objectives.
    """

    def __init__(self, trial: Trial) -> None:
        self.trial, self.seen = trial, dict[int, float]()

    def __call__(self, losses: Mapping[int, float], late: bool = False, /) -> bool:
        study = self.trial.study
        if len(study.directions) > 1:
            return False
        self.seen |= losses
        if isinstance(study.pruner, optuna.pruners.WilcoxonPruner):
            for instance, loss in losses.items():
                self.trial.report(loss, instance)
        else:
            self.trial.report(sum(self.seen.values()) / len(self.seen), max(self.seen))
        return "name" not in self.trial.user_attrs and (late or self.trial.should_prune())
