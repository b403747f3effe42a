"""Plots of a study, drawn with matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from blobex.core.files import whole_file
from blobex.sweeps.best import finalist_losses
from blobex.sweeps.study import OpenStudy
from blobex.sweeps.task import Task
from blobex.sweeps.trials import best_trial, excess, whole_trials

FEW = 4  # trials, below which Optuna's plots have nothing to fit
COLOURS = {"present": "#d95f02", "published": "#7570b3", "best": "#1b9e77"}
SIZES = {"parallel": (14, 6)}  # inches; of others (8, 5.5)
GREY, RED, DPI = "#9a9a9a", "#e41a1c", 90
CONTOURS = (("learning_rate", "steps"), ("learning_rate", "lambda_prox"), ("learning_rate", "halvings"))


def write_plots(opened: OpenStudy, task: Task) -> list[Path]:
    """Write history.png and pareto.png and, with enough trials, importance, contours and parallel coordinates.

    The axes are settings, even if the search space has other values in their place.
    """
    folder, trials = opened.folder.path / "plots", opened.trials()
    paths = [
        _saved(folder / "history.png", history(trials)),
        _saved(folder / "pareto.png", pareto(trials, task, finalist_losses(opened))),
    ]
    study = study_of_settings(trials)
    if len(study.trials) < FEW:
        return paths
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as optuna_plots

    plots: dict[str, Callable[[], Any]] = {
        "parallel": partial(optuna_plots.plot_parallel_coordinate, study, target_name="loss"),
        "importance": partial(optuna_plots.plot_param_importances, study, target_name="loss"),
    }
    for pair in CONTOURS:
        if set(pair) <= set(study.trials[0].params):
            name = f"contour_{pair[0]}_{pair[1]}"
            plots[name] = partial(optuna_plots.plot_contour, study, list(pair), target_name="loss")
    for name, plot in plots.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and few trials leave holes in a contour
            figure = plot().figure
            figure.set_size_inches(SIZES.get(name, (8, 5.5)))
            paths.append(_saved(folder / f"{name}.png", figure))
    matplotlib.pyplot.close("all")
    return paths


def history(trials: Sequence[FrozenTrial]) -> Figure:
    """Plot each trial's loss, and the least loss so far of the trials that keep the limits."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="trial", ylabel="loss", title="Loss of each trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    complete, whole = _complete(trials), whole_trials(trials)
    valid = [trial for trial in whole if not excess(trial)]
    groups = {
        "keeps the limits": (valid, "o", COLOURS["best"]),
        "misses a limit": ([trial for trial in whole if excess(trial)], "x", GREY),
        "hopeless, stopped": ([trial for trial in complete if trial not in whole], "v", GREY),
    }
    for label, (group, marker, colour) in groups.items():
        if group:
            losses = _losses(group, whole)
            axes.scatter([t.number for t in group], losses, marker=marker, color=colour, label=label, zorder=3)
    if valid:
        least = np.minimum.accumulate(_losses(valid, whole))
        axes.step([t.number for t in valid], least, where="post", color=COLOURS["best"])
    for trial in whole:
        name = trial.user_attrs.get("name")
        if name in COLOURS:
            axes.axhline(trial.user_attrs["loss"], color=COLOURS[name], linestyle="--", label=name)
    for trial in trials:
        if trial.state == TrialState.FAIL:
            axes.axvline(trial.number, color=RED, alpha=0.25)
    if whole and max(_losses(complete, whole)) > 4 * min(_losses(whole, whole)) > 0:
        axes.set_yscale("log")
    if complete:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def pareto(trials: Sequence[FrozenTrial], task: Task, finals: Mapping[int, float]) -> Figure:
    """Plot the whole trials by two objectives: a panel for the first minimised objective with each other one.

    A line joins the Pareto front of each panel.
    """
    minimised = next(name for name, direction in task.directions.items() if direction == "minimize")
    others = [name for name in task.directions if name != minimised]
    figure = Figure(figsize=(6 * len(others), 5), layout="constrained")
    figure.suptitle("What is gained and what it costs")
    whole = whole_trials(trials)
    for panel, name in enumerate(others, 1):
        axes = figure.add_subplot(1, len(others), panel, xlabel=name, ylabel=minimised)
        if whole:
            _draw_panel(axes, whole, (name, minimised), task, best_trial(trials, finals))
    return figure


def _draw_panel(axes: Axes, whole: list[FrozenTrial], names: tuple[str, str], task: Task, best: FrozenTrial) -> None:
    points = np.array([[t.user_attrs["measures"][name] for name in names] for t in whole])
    axes.scatter(*points.T, color=GREY, zorder=3)
    signs = np.array([1 if task.directions[name] == "minimize" else -1 for name in names])
    front = np.unique(points[on_front(points * signs)], axis=0)
    axes.plot(*front.T, color=GREY, linewidth=1, label="front")
    marked = {t.user_attrs.get("name"): row for t, row in zip(whole, points, strict=True)}
    marked["best"] = points[whole.index(best)]
    for size, (name, colour) in zip((320, 200, 100), COLOURS.items(), strict=True):
        if name in marked:
            x, y = marked[name]
            axes.scatter(x, y, s=size, facecolors="none", edgecolors=colour, linewidths=2, label=name, zorder=4)
    axes.legend()


def on_front(costs: np.ndarray) -> np.ndarray:
    """Return which of N points (N,D) no other one dominates, bool (N,); lower is better."""
    at_most = (costs[None] <= costs[:, None]).all(2)
    below = (costs[None] < costs[:, None]).any(2)
    dominated: np.ndarray = np.any(at_most & below, axis=1)
    return ~dominated


def study_of_settings(trials: Sequence[FrozenTrial]) -> optuna.Study:
    """Return the complete trials, stopped ones too, as a study of one objective over the settings that vary."""
    study = optuna.create_study()
    complete, losses = _complete(trials), _losses(_complete(trials), whole_trials(trials))
    rows = [trial.user_attrs["settings"] for trial in complete]
    distributions: dict[str, BaseDistribution] = {}
    for name in rows[0] if rows else []:
        column = [float(row[name]) for row in rows]
        if min(column) < max(column):
            distributions[name] = FloatDistribution(min(column), max(column), log=min(column) > 0)
    if not distributions or len(set(losses)) < 2:
        return study
    for loss, row in zip(losses, rows, strict=True):
        params = {name: float(row[name]) for name in distributions}
        study.add_trial(create_trial(params=params, distributions=distributions, value=loss))
    return study


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def _losses(trials: Sequence[FrozenTrial], whole: Sequence[FrozenTrial]) -> list[float]:
    """Return losses, those of stopped trials raised to the least of whole ones: they are of a few easy images."""
    least = min((trial.user_attrs["loss"] for trial in whole), default=-np.inf)
    return [max(trial.user_attrs["loss"], least) for trial in trials]


def _saved(path: Path, figure: Figure) -> Path:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", bbox_inches="tight")
    return path
