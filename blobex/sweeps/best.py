"""Finalists and best trial of a study, their comparison with other settings, and the best values in params.yaml."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from optuna.trial import FrozenTrial

from blobex.config.messages import abbreviated
from blobex.config.read import read_yaml
from blobex.config.write import Changes, Value, rewrite_values
from blobex.core.errors import BlobexError, brief
from blobex.core.files import write_text
from blobex.metrics.interval import interval
from blobex.sweeps.study import OpenStudy
from blobex.sweeps.task import Settings, Task
from blobex.sweeps.trials import best_trial, excess, whole_trials

BEST = "best.yaml"
Samples = Mapping[str, np.ndarray]  # by measure: one number per image, NaN where an image has none
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
        if trial.number in losses:
            continue
        try:
            losses[trial.number] = task.again(trial.user_attrs["settings"])
        except Exception as error:  # whatever the values do to the networks, the other finalists are measured
            print(f"trial {trial.number} fails where finalists are measured: {brief(error)}")
            losses[trial.number] = math.inf
        opened.study.set_user_attr(FINALS, {str(number): loss for number, loss in losses.items()})


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


def comparison(
    images: int,
    candidates: Mapping[str, Settings],
    measure: Callable[[Settings], tuple[Mapping[str, float], Samples]],
    seed: int,
) -> dict[str, Any]:
    """Measure each candidate, and the differences of the best to each other one, image by image.

    A candidate that fails is left out with a message, unless it is the best. Each difference has its mean over the
    images for which both have a number, and a bootstrap interval over images: questions about one image are not
    independent.
    """
    measures, samples = dict[str, dict[str, float]](), dict[str, Samples]()
    for name, settings in candidates.items():
        try:
            values, samples[name] = measure(settings)
            measures[name] = dict(values)
        except Exception as error:  # whatever the values do to the networks, the other candidates are compared
            if name == "best":
                raise
            print(f"{name} settings fail on what is held out, and are not compared: {brief(error)}")
    best = samples.pop("best")
    differences = {f"best - {name}": _differences(best, other, seed) for name, other in samples.items()}
    return {"pictures": images, "measures": measures, "differences": differences}


def _differences(best: Samples, other: Samples, seed: int) -> dict[str, dict[str, Any]]:
    pairs = {key: best[key] - other[key] for key in other}
    finite = {key: values[np.isfinite(values)] for key, values in pairs.items()}
    return {key: dataclasses.asdict(interval(values, seed)) for key, values in finite.items() if len(values)}


def table(compared: Mapping[str, Any]) -> str:
    """Format a comparison as lines of text."""
    measures, names = compared["measures"], list(compared["measures"])
    wide = max(16, *(len(name) + 2 for name in [*names, *compared["differences"]]))
    lines = [
        f"on {compared['pictures']} held-out images:",
        " " * 24 + "".join(f"{name:>{wide}}" for name in names),
    ]
    for key in measures["best"]:
        lines.append(f"{key:<24}" + "".join(f"{measures[name][key]:>{wide}.5g}" for name in names))
    for name, differences in compared["differences"].items():
        lines.append(f"{name}, with 95% intervals over images:")
        lines += [
            f"  {key:<22}{value['mean']:>+12.5g}  from {value['low']:+.5g} to {value['high']:+.5g}"
            for key, value in differences.items()
        ]
    return "\n".join(lines)


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
