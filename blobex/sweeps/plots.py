"""Pictures of a study, drawn with matplotlib."""

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
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from blobex.core.files import whole_file
from blobex.sweeps.best import best_trial, finals, missed, whole_trials
from blobex.sweeps.study import Opened
from blobex.sweeps.task import Task

FEW = 4  # trials, below which there is nothing to fit
COLOURS = {"present": "#d95f02", "published": "#7570b3", "best": "#1b9e77"}
USUAL, WIDE = (8, 5.5), (14, 6)  # inches
GREY, DOTS = "#9a9a9a", 90  # dots per inch
CONTOURS = (("learning_rate", "steps"), ("learning_rate", "lambda_prox"), ("learning_rate", "halvings"))


def write_plots(opened: Opened, task: Task) -> list[Path]:
    """Write history.png and pareto.png and, if there are enough trials, importance, contours and parallel coordinates.

    These show settings, whatever stands for them in the search space.
    """
    folder, trials = opened.place.folder / "plots", opened.trials()
    paths = [
        _saved(folder / "history.png", history(trials)),
        _saved(folder / "pareto.png", pareto(trials, task, finals(opened))),
    ]
    shown = _by_settings(trials)
    if len(shown.trials) < FEW:
        return paths
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as drawn

    best = _done(trials).index(best_trial(trials, finals(opened)))
    paths.append(_saved(folder / "parallel.png", parallel(shown, best)))
    names = list(shown.trials[0].params)
    plots: dict[str, Callable[[], Any]] = {
        "importance": partial(drawn.plot_param_importances, shown, target_name="loss"),
    }
    for pair in CONTOURS:
        if set(pair) <= set(names):
            plots[f"contour_{pair[0]}_{pair[1]}"] = partial(drawn.plot_contour, shown, list(pair), target_name="loss")
    for name, plot in plots.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's plots are experimental, and few trials leave holes in a contour
            figure = plot().figure
            figure.set_size_inches(USUAL)
            paths.append(_saved(folder / f"{name}.png", figure))
    matplotlib.pyplot.close("all")
    return paths


def history(trials: Sequence[FrozenTrial]) -> Figure:
    """Each trial's loss, and the best so far of those that keep the limits."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="trial", ylabel="loss", title="Loss of each trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    done, whole = _done(trials), whole_trials(trials)
    kept, broken = [t for t in whole if not missed(t)], [t for t in whole if missed(t)]
    stopped = [trial for trial in done if trial not in whole]
    for some, marker, label in (
        (kept, "o", "keeps the limits"),
        (broken, "x", "misses a limit"),
        (stopped, "v", "hopeless, stopped"),
    ):
        if some:
            colour = COLOURS["best"] if some is kept else GREY
            losses = _losses(some, whole)
            axes.scatter([t.number for t in some], losses, marker=marker, color=colour, label=label, zorder=3)
    if kept:
        axes.step(
            [t.number for t in kept], np.minimum.accumulate(_losses(kept, whole)), where="post", color=COLOURS["best"]
        )
    for trial in whole:
        name = trial.user_attrs.get("name")
        if name in COLOURS:
            axes.axhline(trial.user_attrs["loss"], color=COLOURS[name], linestyle="--", label=name)
    for trial in trials:
        if trial.state == TrialState.FAIL:
            axes.axvline(trial.number, color="#e41a1c", alpha=0.25)
    if whole and max(_losses(done, whole)) > 4 * min(_losses(whole, whole)) > 0:
        axes.set_yscale("log")
    if done:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def pareto(trials: Sequence[FrozenTrial], task: Task, again: Mapping[int, float]) -> Figure:
    """Each whole trial by two objectives, in a panel for the first one that is made small and each other one.

    The front, which no trial beats in both, is joined up.
    """
    small = next(name for name, direction in task.directions.items() if direction == "minimize")
    others = [name for name in task.directions if name != small]
    figure = Figure(figsize=(6 * len(others), 5), layout="constrained")
    figure.suptitle("What is gained and what it costs")
    whole = whole_trials(trials)
    for panel, name in enumerate(others, 1):
        axes = figure.add_subplot(1, len(others), panel, xlabel=name, ylabel=small)
        if whole:
            _panel(axes, whole, (name, small), task, best_trial(trials, again))
    return figure


def _panel(axes: Axes, whole: list[FrozenTrial], names: tuple[str, str], task: Task, best: FrozenTrial) -> None:
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


def parallel(shown: optuna.Study, best: int) -> Figure:
    """Each trial as a line through its settings and its loss, whose axes go from the least to the largest value.

    `best` is the place of the best one, which need not have the least loss: there are limits and finals.
    """
    rows = [[*trial.params.values(), *trial.values] for trial in shown.trials]
    rows = [*sorted(rows, key=lambda row: -row[-1]), rows[best]]  # the best lie on top
    table, names = np.array(rows), [*shown.trials[0].params, "loss"]
    lows, highs = table.min(0), table.max(0)
    scaled = np.where(lows > 0, np.log(np.maximum(table, 1e-300)), table)
    heights = (scaled - scaled.min(0)) / np.ptp(scaled, axis=0)
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot(
        title="Settings and loss of each trial", xlim=(-0.1, len(names) - 0.9), ylim=(-0.05, 1.05)
    )
    lines = [np.stack([np.arange(len(names)), row], axis=1) for row in heights]
    drawn = LineCollection(lines, cmap="viridis", linewidths=1.5, array=table[:, -1])
    axes.add_collection(drawn)
    axes.plot(np.arange(len(names)), heights[-1], color=COLOURS["best"], linewidth=4, label="best")
    for place, (low, high) in enumerate(zip(lows, highs, strict=True)):
        axes.axvline(place, color="black", linewidth=0.8)
        for value, height, side in ((low, -0.02, "top"), (high, 1.02, "bottom")):
            axes.text(place, height, f"{value:.3g}", ha="center", va=side)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_frame_on(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.12))
    figure.colorbar(drawn, label="loss")
    return figure


def on_front(costs: np.ndarray) -> np.ndarray:
    """Which of N points (N,D), of which less is better, no other one beats, bool (N,)."""
    at_most = (costs[None] <= costs[:, None]).all(2)
    below = (costs[None] < costs[:, None]).any(2)
    beaten: np.ndarray = np.any(at_most & below, axis=1)
    return ~beaten


def _by_settings(trials: Sequence[FrozenTrial]) -> optuna.Study:
    """The trials that were told, hopeless ones too, as a study of one objective over the settings that vary."""
    study = optuna.create_study()
    done, losses = _done(trials), _losses(_done(trials), whole_trials(trials))
    rows = [trial.user_attrs["settings"] for trial in done]
    spaces = {}
    for name in rows[0] if rows else []:
        column = [float(row[name]) for row in rows]
        if min(column) < max(column):
            spaces[name] = FloatDistribution(min(column), max(column), log=min(column) > 0)
    if not spaces or len(set(losses)) < 2:
        return study
    distributions: dict[str, BaseDistribution] = dict(spaces)
    for loss, row in zip(losses, rows, strict=True):
        params = {name: float(row[name]) for name in spaces}
        study.add_trial(create_trial(params=params, distributions=distributions, value=loss))
    return study


def _done(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def _losses(trials: Sequence[FrozenTrial], whole: Sequence[FrozenTrial]) -> list[float]:
    """Those of stopped trials, on a few easy pictures, are no records: at least that of the best whole one."""
    least = min((trial.user_attrs["loss"] for trial in whole), default=-np.inf)
    return [max(trial.user_attrs["loss"], least) for trial in trials]


def _saved(path: Path, figure: Figure) -> Path:
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=DOTS, format="png", bbox_inches="tight")
    return path
