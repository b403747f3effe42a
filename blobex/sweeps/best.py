"""Finalists and best trial of a study, and the best values as a file and in params.yaml."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import yaml
from optuna.trial import FrozenTrial

from blobex.config.messages import abbreviated
from blobex.config.read import read_yaml
from blobex.config.write import Changes, Value, rewrite_values
from blobex.core.errors import BlobexError, brief
from blobex.core.files import write_text
from blobex.sweeps.study import OpenStudy
from blobex.sweeps.task import Settings, Task
from blobex.sweeps.trials import best_trial, excess, whole_trials

BEST = "best.yaml"
FINALS = "finals"  # attribute of a study: losses of the finalists by trial number


def finalists(trials: Sequence[FrozenTrial], count: int) -> list[FrozenTrial]:
    """Return the `count` best trials and the starting ones, without those that miss a limit unless all do."""
    ranked = sorted(whole_trials(trials), key=lambda trial: (excess(trial), trial.user_attrs["loss"], trial.number))
    starts = [trial for trial in ranked[count:] if "name" in trial.user_attrs]
    return [trial for trial in (*ranked[:count], *starts) if excess(trial) == 0 or excess(ranked[0]) > 0]


def finalist_losses(opened: OpenStudy) -> dict[int, float]:
    """Return the losses of the finalists, measured on data of no trial, by trial number."""
    return {int(number): loss for number, loss in opened.study.user_attrs.get(FINALS, {}).items()}


def measure_finalists(opened: OpenStudy, task: Task) -> None:
    """Measure the finalists, except those that were measured before, on data of no trial."""
    count = task.options.finalists
    for trial in finalists(opened.trials(), count) if count > 1 else ():
        losses = finalist_losses(opened)
        if trial.number not in losses:
            losses[trial.number] = _finalist_loss(trial, task)
            opened.study.set_user_attr(FINALS, {str(number): loss for number, loss in losses.items()})


def _finalist_loss(trial: FrozenTrial, task: Task) -> float:
    """Return the loss of a finalist, infinite if it fails."""
    try:
        return task.again(trial.user_attrs["settings"])
    except Exception as error:  # whatever the values do to the networks, the other finalists are measured
        print(f"trial {trial.number} fails where finalists are measured: {brief(error)}")
        return math.inf


def candidates(opened: OpenStudy) -> dict[str, Settings]:
    """Return the starting settings by name, and the best ones."""
    trials = opened.trials()
    named = {t.user_attrs["name"]: t.user_attrs["settings"] for t in whole_trials(trials) if "name" in t.user_attrs}
    return named | {"best": best_trial(trials, finalist_losses(opened)).user_attrs["settings"]}


def write_best(opened: OpenStudy, task: Task) -> Path:
    """Write best.yaml: the best values by their keys in params.yaml, and their measurements."""
    finals = finalist_losses(opened)
    trial = best_trial(opened.trials(), finals)
    content = {
        "study": opened.study.study_name,
        "trial": trial.number,
        "keeps_limits": excess(trial) == 0,
        "values": task.keys(trial.user_attrs["settings"]),
        "measures": {"loss": trial.user_attrs["loss"], **trial.user_attrs["measures"]},
        "loss_of_finalists": finals,
    }
    path = opened.folder.path / BEST
    write_text(path, yaml.safe_dump(content, sort_keys=False))
    return path


def apply(best: Path, params: Path) -> Changes:
    """Write the values of a best.yaml into a parameter file, and return each key's value before and after.

    Everything else in the file keeps its bytes.

    Raises:
        BlobexError: if a file is missing or damaged, a key is missing, or a value is out of range. The parameter file
            does not change then.
    """
    with rewrite_values(params, read_best(best)) as changes:
        return changes


def read_best(path: Path) -> dict[str, Value]:
    """Return the values of a best.yaml by their keys; raise BlobexError if it is missing or damaged."""
    try:
        values = read_yaml(path)["values"]
        wrong = [key for key, value in values.items() if type(key) is not str or type(value) not in (int, float)]
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise BlobexError(f"cannot read the values of {path}: run the sweep first") from error
    if wrong:
        raise BlobexError(f"{path} holds no number for {abbreviated(wrong[0])}: run the sweep again")
    return dict(values)
