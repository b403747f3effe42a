"""The best trial, its values as a file, and their way into params.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from optuna.trial import FrozenTrial, TrialState

from blobex.config.messages import abbreviated
from blobex.config.read import read_yaml
from blobex.config.write import Changes, Value, rewrite_values
from blobex.core.errors import BlobexError, brief
from blobex.core.files import whole_file
from blobex.sweeps.study import Opened
from blobex.sweeps.task import Settings, Task

BEST = "best.yaml"
FINALS = "finals"  # of a study: what finalists lost when they were measured again, by their trials' numbers


def whole_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that were tried to their end."""
    return [t for t in trials if t.state == TrialState.COMPLETE and t.user_attrs.get("stopped_after") is None]


def missed(trial: FrozenTrial) -> float:
    """By how much, in shares of the limits, a trial misses them; 0: it keeps all."""
    return sum(max(0.0, each) for each in trial.constraints.values())


def best_trial(trials: Sequence[FrozenTrial], again: Mapping[int, float] | None = None) -> FrozenTrial:
    """The smallest loss of those that keep the limits; if none does, the one that misses them least.

    If some were measured `again` (their losses by number), the best is one of these, by what they lost there: the least
    of many losses on a few pictures is as much luck as merit.

    BlobexError if no trial was tried to its end; it tells why the last one failed.
    """
    whole = whole_trials(trials)
    if not whole:
        reasons = [t.user_attrs["reason"] for t in trials if t.state == TrialState.FAIL and "reason" in t.user_attrs]
        raise BlobexError(f"no trial of the sweep succeeded: {reasons[-1] if reasons else 'none was tried to its end'}")
    losses = again or {trial.number: trial.user_attrs["loss"] for trial in whole}
    known = [trial for trial in whole if trial.number in losses]
    return min(known, key=lambda trial: (missed(trial), losses[trial.number], trial.number))


def finalists(trials: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """The `count` best trials, and those that the study began with, unless they miss a limit that others keep."""
    ranked = sorted(whole_trials(trials), key=lambda trial: (missed(trial), trial.user_attrs["loss"], trial.number))
    starts = [trial for trial in ranked[count:] if "name" in trial.user_attrs]
    return [trial for trial in (*ranked[:count], *starts) if missed(trial) == 0 or missed(ranked[0]) > 0]


def finals(opened: Opened) -> dict[int, float]:
    """What finalists lost when they were measured again, by their trials' numbers."""
    return {int(number): loss for number, loss in opened.study.user_attrs.get(FINALS, {}).items()}


def measure_again(opened: Opened, task: Task) -> None:
    """Measure the finalists on what no trial saw, those that were not yet."""
    count = task.options.finalists
    for trial in finalists(opened.trials(), count) if count > 1 else ():
        known = finals(opened)
        if trial.number not in known:
            known[trial.number] = _again(trial, task)
            opened.study.set_user_attr(FINALS, {str(number): loss for number, loss in known.items()})


def _again(trial: FrozenTrial, task: Task) -> float:
    """The loss of a finalist on what no trial saw; infinite if it fails there: it must not take the others along."""
    try:
        return task.again(trial.user_attrs["settings"])
    except Exception as error:  # as in trials, whatever the values do to the networks
        print(f"trial {trial.number} fails where finalists are measured: {brief(error)}")
        return math.inf


def candidates(opened: Opened) -> dict[str, Settings]:
    """The settings that a study began with, by name, and the best ones."""
    trials = opened.trials()
    named = {t.user_attrs["name"]: t.user_attrs["settings"] for t in whole_trials(trials) if "name" in t.user_attrs}
    return named | {"best": best_trial(trials, finals(opened)).user_attrs["settings"]}


def write_best(opened: Opened, task: Task) -> Path:
    """Write best.yaml: the values by their keys in params.yaml, and what they achieved."""
    again = finals(opened)
    trial = best_trial(opened.trials(), again)
    content = {
        "study": opened.study.study_name,
        "trial": trial.number,
        "keeps_limits": missed(trial) == 0,
        "values": task.keys(trial.user_attrs["settings"]),
        "measures": {"loss": trial.user_attrs["loss"], **trial.user_attrs["measures"]},
        "loss_of_finalists": again,
    }
    path = opened.place.folder / BEST
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def apply(best: Path, params: Path) -> Changes:
    """Write the values of a best.yaml into a parameter file; everything else in it keeps its bytes.

    What each key held and holds now is given back. BlobexError: a file is missing or damaged, a key is not there, or a
    value is out of range; the file then stays as it is.
    """
    with rewrite_values(params, read_best(best)) as changes:
        return changes


def read_best(path: Path) -> dict[str, Value]:
    """The values of a best.yaml by their keys; BlobexError if it is missing or damaged."""
    try:
        values = read_yaml(path)["values"]
        wrong = [key for key, value in values.items() if type(key) is not str or type(value) not in (int, float)]
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise BlobexError(f"cannot read the values of {path}: run the sweep first") from error
    if wrong:
        raise BlobexError(f"{path} holds no number for {abbreviated(wrong[0])}: run the sweep again")
    return dict(values)
