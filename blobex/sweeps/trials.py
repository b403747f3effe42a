"""Trials of a study: which count, which is the best, and their table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from blobex.core.errors import BlobexError
from blobex.core.files import whole_file

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
SILENT = "its worker went silent"


def retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the lost trials whose values were queued again."""
    return {number for trial in trials for number in retry_history(trial)}


def retry_history(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the lost trials that a trial repeats, as Optuna's retry callback notes them."""
    return list(trial.system_attrs.get("retry_history", []))


def failure(trial: FrozenTrial) -> str | None:
    """Return the reason of a failed trial, else None."""
    return str(trial.user_attrs.get("reason", SILENT)) if trial.state == TrialState.FAIL else None


def whole_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that were measured on all instances."""
    return [t for t in trials if t.state == TrialState.COMPLETE and t.user_attrs.get("stopped_after") is None]


def excess(trial: FrozenTrial) -> float:
    """Return the sum of the relative excesses over the limits; 0 if the trial keeps them all."""
    return sum(max(0.0, value) for value in trial.constraints.values())


def best_trial(trials: Sequence[FrozenTrial], finals: Mapping[int, float] | None = None) -> FrozenTrial:
    """Return the trial of least loss among those that keep the limits, or else the one of least excess.

    If `finals` has losses of finalists by trial number, the best is one of these, by these losses: the least of many
    losses on a few images is as much luck as merit.

    Raises:
        BlobexError: if no trial was measured on all instances.
    """
    whole = whole_trials(trials)
    if not whole:
        reasons = [t.user_attrs["reason"] for t in trials if t.state == TrialState.FAIL and "reason" in t.user_attrs]
        raise BlobexError(f"no trial of the sweep succeeded: {reasons[-1] if reasons else 'none was tried to its end'}")
    losses = finals or {trial.number: trial.user_attrs["loss"] for trial in whole}
    candidates = [trial for trial in whole if trial.number in losses]
    return min(candidates, key=lambda trial: (excess(trial), losses[trial.number], trial.number))


def described(trial: FrozenTrial) -> str:
    """Return a trial in one line."""
    attributes = trial.user_attrs
    settings = "  ".join(f"{name} {value:g}" for name, value in attributes.get("settings", {}).items())
    name = f" ({attributes['name']})" if "name" in attributes else ""
    if trial.state == TrialState.FAIL:
        return f"trial {trial.number}{name}: failed: {failure(trial)}  [{settings}]"
    stopped = attributes.get("stopped_after")
    end = f", hopeless after {stopped}" if stopped is not None else ", misses a limit" if excess(trial) else ""
    measures = "  ".join(f"{key} {value:.4g}" for key, value in attributes["measures"].items())
    return f"trial {trial.number}{name}: loss {attributes['loss']:.5g}  {measures}{end}  [{settings}]"


def write_trials(trials: Sequence[FrozenTrial], path: Path) -> Path:
    """Write a CSV file with one row per trial."""
    rows = []
    for trial in trials:
        attributes = trial.user_attrs
        row = {"trial": trial.number, "name": attributes.get("name"), "state": trial.state.name.lower()}
        row |= {"loss": attributes.get("loss"), **attributes.get("settings", {}), **attributes.get("measures", {})}
        row |= {f"over_{name}": value for name, value in trial.constraints.items()}
        again = next(reversed(retry_history(trial)), None)
        rows.append(row | {"stopped_after": attributes.get("stopped_after"), "again": again, "reason": failure(trial)})
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path
