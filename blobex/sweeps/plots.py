"""Plots of a study, drawn with matplotlib."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna.visualization import matplotlib as optuna_plots

from blobex.core.files import whole_file
from blobex.sweeps.best import finalist_losses
from blobex.sweeps.study import OpenStudy
from blobex.sweeps.task import Task
from blobex.sweeps.trials import best_trial, whole_trials

FEW = 4  # trials, below which Optuna's plots have nothing to fit
COLOURS = {"present": "#d95f02", "published": "#7570b3", "best": "#1b9e77"}
SIZES = {"parallel": (14, 6)}  # inches; of others (8, 5.5)
GREY, DPI = "#9a9a9a", 90
CONTOURS = (("learning_rate", "steps"), ("learning_rate", "lambda_prox"), ("learning_rate", "halvings"))


def write_plots(opened: OpenStudy, task: Task) -> list[Path]:
    """Write history.png and pareto.png and, with enough trials, importance, contours and parallel coordinates.

    The axes are settings, even if the search space has other values in their place.
    """
    matplotlib.use("Agg")
    folder, trials = opened.folder.path / "plots", opened.trials()
    paths = [
        _saved(folder / "history.png", history(trials)),
        _saved(folder / "pareto.png", pareto(trials, task, finalist_losses(opened))),
    ]
    study = study_of_settings(trials)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if len(complete) < FEW or not complete[0].params or len({trial.value for trial in complete}) < 2:
        return paths
    plots: dict[str, Callable[..., Any]] = {
        "parallel": partial(optuna_plots.plot_parallel_coordinate, study),
        "importance": partial(optuna_plots.plot_param_importances, study),
    }
    for pair in CONTOURS:
        if set(pair) <= set(complete[0].params):
            plots["_".join(("contour", *pair))] = partial(optuna_plots.plot_contour, study, list(pair))
    for name, plot in plots.items():
        figure = _drawn(plot).figure
        figure.set_size_inches(SIZES.get(name, (8, 5.5)))
        paths.append(_saved(folder / f"{name}.png", figure))
    return paths


def history(trials: Sequence[FrozenTrial]) -> Figure:
    """Plot the loss of each trial, grey if it misses a limit, the least so far, and those of the starting settings."""
    axes = _drawn(partial(optuna_plots.plot_optimization_history, study_of_settings(trials)))
    for trial in whole_trials(trials):
        name = trial.user_attrs.get("name")
        if name in COLOURS:
            axes.axhline(trial.user_attrs["loss"], color=COLOURS[name], linestyle="--", label=name)
    losses = [trial.user_attrs["loss"] for trial in trials if trial.state == TrialState.COMPLETE]
    if losses and max(losses) > 4 * min(losses) > 0:
        axes.set_yscale("log")
    if losses:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure: Figure = axes.figure
    return figure


def _drawn(plot: Callable[..., Any]) -> Any:
    """Return the axes that a plot of Optuna drew, and undo what it changes in pyplot."""
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # Optuna's plots are experimental, and few trials leave holes in a contour
        axes = plot(target_name="loss")
    matplotlib.pyplot.close(axes.figure)
    return axes


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
    """Return the trials as a study of one objective, the loss, over the settings that vary.

    Losses of stopped trials are raised to the least of whole ones, as they are of a few easy images.
    """
    study = optuna.create_study()
    rows = [trial.user_attrs["settings"] for trial in trials if trial.state == TrialState.COMPLETE]
    distributions: dict[str, BaseDistribution] = {}
    for name in rows[0] if rows else []:
        column = [float(row[name]) for row in rows]
        if min(column) < max(column):
            distributions[name] = FloatDistribution(min(column), max(column), log=min(column) > 0)
    least = min((trial.user_attrs["loss"] for trial in whole_trials(trials)), default=-math.inf)
    for trial in trials:
        if trial.state != TrialState.COMPLETE:
            study.add_trial(create_trial(state=TrialState.FAIL))
            continue
        params = {name: float(trial.user_attrs["settings"][name]) for name in distributions}
        value, limits = max(trial.user_attrs["loss"], least), trial.constraints
        study.add_trial(create_trial(params=params, distributions=distributions, value=value, constraints=limits))
    return study


def _saved(path: Path, figure: Figure) -> Path:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DPI, format="png", bbox_inches="tight")
    return path
