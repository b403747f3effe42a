"""Plots of a study."""

import numpy as np
import pytest
from optuna.trial import create_trial
from worlds.tiny_sweep import FormulaTask, params, swept

from blobex.sweeps.plots import history, on_front, pareto


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Plots take seconds: these tests do without."""
    monkeypatch.setattr("blobex.sweeps.sweep.write_plots", lambda opened, task: [])


def test_plots_of_objectives_by_two(tmp_path):
    values = params()
    task = FormulaTask(values.sweep_cf)
    study, _ = swept(tmp_path, 3, task, values)
    panels = [(each.get_xlabel(), each.get_ylabel()) for each in pareto(study.trials(), task, {}).axes]
    assert panels == [("flip_rate", "perceptual"), ("seconds", "perceptual")]
    task.directions = {"flip_rate": "maximize", "seconds": "minimize"}
    axes = pareto(study.trials(), task, {}).axes
    assert len(axes) == 1 and (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("flip_rate", "seconds")


def test_plots_call_no_stopped_trial_the_best():
    def tried(number, steps, loss, stopped=None):
        attributes = {
            "settings": {"steps": steps, "learning_rate": 0.1 * steps},
            "loss": loss,
            "stopped_after": stopped,
        }
        found = create_trial(value=loss, user_attrs=attributes)
        found.number = number
        return found

    trials = [tried(0, 10, 0.5), tried(1, 20, 0.1, stopped=4), tried(2, 30, 0.3), tried(3, 40, 0.4)]
    points = [point for dots in history(trials).axes[0].collections for point in dots.get_offsets().tolist()]
    assert sorted(points) == [[0, 0.5], [1, 0.3], [2, 0.3], [3, 0.4]]


def test_front():
    costs = np.array([[0, 3], [1, 1], [3, 0], [2, 2], [1, 1]])
    assert on_front(costs).tolist() == [True, True, True, False, True]
