"""Sweeps of a formula whose best settings are known, with one worker and with workers that are killed."""

import csv
import dataclasses
import json
import math
import random
import sys

import numpy as np
import pytest
import yaml
from optuna.trial import TrialState
from worlds.profiles import params_text
from worlds.tiny_sweep import INSTANCES, FormulaTask, opened, params, swept

from blobex.core.errors import BlobexError
from blobex.sweeps import launch
from blobex.sweeps.sweep import sweep
from blobex.sweeps.trials import best_trial
from blobex.sweeps.worker import SUPERVISOR, work
from blobex.tracking import store as mlflow_store


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Plots take seconds: most tests do without."""
    if request.node.get_closest_marker("slow") is None and "plots" not in request.node.name:
        monkeypatch.setattr("blobex.sweeps.sweep.write_plots", lambda opened, task: [])


def test_sweep_begins_with_the_starting_values_and_writes_the_best_and_plots(tmp_path):
    study, compared = swept(tmp_path)
    trials = study.trials()
    assert [trial.user_attrs.get("name") for trial in trials[:3]] == ["present", "published", None]
    assert trials[0].user_attrs["settings"] == {"learning_rate": 0.02, "steps": 50}
    assert len(trials) == 10 and all(trial.state == TrialState.COMPLETE for trial in trials)
    kept = [trial for trial in trials if trial.constraints["flip_rate"] <= 0]
    assert 0 < len(kept) < 10
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    wanted = min(kept, key=lambda trial: trial.value)
    assert best["trial"] == wanted.number and best["keeps_limits"]
    assert best["values"] == {f"explain.rect.{k}": v for k, v in wanted.user_attrs["settings"].items()}
    assert set(compared["measures"]) == {"present", "published", "best"}
    assert json.loads((tmp_path / "comparison.json").read_text()) == compared
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == pytest.approx([trial.value for trial in trials])
    plots = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert plots == {"history", "pareto", "importance", "parallel", "contour_learning_rate_steps"}
    assert len(list((tmp_path / "trials").glob("*.png"))) == 10


def test_continued_study_has_the_trials_of_an_uninterrupted_one(tmp_path):
    whole, _ = swept(tmp_path / "whole", 8)
    swept(tmp_path / "parts", 3)
    parts, _ = swept(tmp_path / "parts", 8)
    assert [t.params for t in parts.trials()] == [t.params for t in whole.trials()]
    assert len({tuple(t.params.values()) for t in whole.trials()}) == 8


def test_study_of_something_else_is_refused(tmp_path):
    values = params()
    opened(tmp_path, FormulaTask(values.sweep_cf))
    with pytest.raises(BlobexError, match=r"another version.*--name"):
        opened(tmp_path, FormulaTask(values.sweep_cf, version=2))
    opened(tmp_path, FormulaTask(values.sweep_cf, version=2), "other")
    pareto = params(mode="pareto")
    with pytest.raises(BlobexError, match=r"another mode|cannot be opened"):
        opened(tmp_path, FormulaTask(pareto.sweep_cf))


def test_failed_trial_has_its_reason_and_the_study_goes_on(tmp_path):
    values = params()
    task = FormulaTask(values.sweep_cf, broken=lambda settings: settings["steps"] == 200)
    study, compared = swept(tmp_path, 5, task, values)
    states = [trial.state for trial in study.trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, *[TrialState.COMPLETE] * 3]
    assert study.trials()[1].user_attrs["reason"] == "it broke"
    assert set(compared["measures"]) == {"present", "best"}


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA out of memory"), ZeroDivisionError()])
def test_any_exception_makes_its_trial_fail(tmp_path, error):
    def broken(settings):
        raise error

    values = params()
    task = FormulaTask(values.sweep_cf, broken=broken)
    with pytest.raises(BlobexError, match=f"no trial of the sweep succeeded: {type(error).__name__}"):
        swept(tmp_path, 2, task, values)


def test_loss_that_is_not_finite_fails(tmp_path):
    values = params()
    task = FormulaTask(values.sweep_cf)
    task.loss = lambda settings, instance: float("nan") if settings["steps"] == 200 else 1.0
    study, _ = swept(tmp_path, 3, task, values)
    assert study.trials()[1].state == TrialState.FAIL and "nan" in study.trials()[1].user_attrs["reason"]


@pytest.mark.parametrize("name", ["wilcoxon", "median"])
def test_hopeless_trials_stop_early_and_are_never_the_best(tmp_path, name):
    values = params(pruner=name, flip_rate=0.0)
    study, _ = swept(tmp_path, 25, values=values)
    stopped = [t for t in study.trials() if t.user_attrs["stopped_after"] is not None]
    assert 5 < len(stopped) < 25
    assert all(t.user_attrs["stopped_after"] < INSTANCES and "name" not in t.user_attrs for t in stopped)
    best = best_trial(study.trials())
    assert best not in stopped and all(t.value > best.value for t in stopped)
    whole = FormulaTask(values.sweep_cf)
    means = [np.mean([whole.loss(t.user_attrs["settings"], i) for i in range(INSTANCES)]) for t in study.trials()]
    assert best.value == pytest.approx(min(means))  # no good one was given up


class LuckyTask(FormulaTask):
    """Trials are measured with luck, of which their settings decide; finalists without."""

    def __init__(self, options):
        super().__init__(options)
        self.asked = []

    def measure(self, settings, report):
        outcome = super().measure(settings, report)
        luck = random.Random(str(settings)).uniform(-2, 2)
        return dataclasses.replace(outcome, loss=outcome.loss + luck)

    def again(self, settings):
        self.asked.append(settings)
        return self.loss(settings, 0)


def test_the_best_of_the_finalists_is_the_best(tmp_path):
    values = params(finalists=4, flip_rate=0.0)
    task = LuckyTask(values.sweep_cf)
    study, compared = swept(tmp_path, 30, task, values)
    trials = study.trials()
    luckiest = sorted(trials, key=lambda trial: trial.user_attrs["loss"])[:4]
    asked = [trial for trial in trials if trial in luckiest or "name" in trial.user_attrs]
    assert sorted(map(str, task.asked)) == sorted(str(trial.user_attrs["settings"]) for trial in asked)
    best = min(asked, key=lambda trial: task.loss(trial.user_attrs["settings"], 0))
    assert best is not luckiest[0]
    assert compared["measures"]["best"]["loss"] == task.loss(best.user_attrs["settings"], 0)
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["trial"] == best.number
    swept(tmp_path, 30, task, values)
    assert len(task.asked) == len(asked)  # what is known is not measured again


def test_a_finalist_that_fails_is_not_the_best(tmp_path, capsys):
    values = params(finalists=4, flip_rate=0.0)
    study, _ = swept(tmp_path / "sound", 12, LuckyTask(values.sweep_cf), values)
    best = yaml.safe_load((tmp_path / "sound/best.yaml").read_text())["trial"]
    settings = study.trials()[best].user_attrs["settings"]

    class Fragile(LuckyTask):
        def again(self, tried):
            if tried == settings:
                raise FloatingPointError("it diverged")
            return super().again(tried)

    swept(tmp_path / "other", 12, Fragile(values.sweep_cf), values)
    assert f"trial {best} fails where finalists are measured: it diverged" in capsys.readouterr().out
    found = yaml.safe_load((tmp_path / "other/best.yaml").read_text())
    assert found["trial"] != best and found["loss_of_finalists"][best] == math.inf


def test_finalists_keep_the_limits(tmp_path):
    values = params(finalists=30, flip_rate=0.8)
    task = LuckyTask(values.sweep_cf)
    study, _ = swept(tmp_path, 20, task, values)
    kept = [trial for trial in study.trials() if trial.user_attrs["measures"]["flip_rate"] >= 0.8]
    assert 0 < len(kept) < 20 and len(task.asked) == len(kept)


def test_pareto_mode_has_three_objectives(tmp_path):
    values = params(mode="pareto", pruner="wilcoxon", sampler="tpe")
    study, _ = swept(tmp_path, 12, values=values)
    trial = study.trials()[0]
    assert trial.values == [trial.user_attrs["measures"][name] for name in FormulaTask.directions]
    assert [d.name for d in study.study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]


@pytest.mark.parametrize("name", [pytest.param("gp", marks=pytest.mark.slow), "tpe"])
def test_samplers_learn(tmp_path, name):
    values = params(sampler=name, flip_rate=0.0)
    study, _ = swept(tmp_path, 25, values=values)
    first, last = ([t.value for t in study.trials()[part]] for part in (slice(0, 10), slice(15, 25)))
    assert np.median(last) < np.median(first)


def test_torn_last_line_of_the_journal_is_cut_off(tmp_path):
    study, _ = swept(tmp_path, 3)
    with study.folder.journal.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    again, _ = swept(tmp_path, 4)
    assert len(again.trials()) == 4


@pytest.mark.slow
def test_workers_share_the_trials(tmp_path):
    study, _ = swept(tmp_path, 6, workers=2, seconds=0.3)
    trials = study.trials()
    assert len(trials) == 6 and all(trial.state == TrialState.COMPLETE for trial in trials)
    assert len({trial.user_attrs["worker"] for trial in trials}) == 2


def test_sweep_ends_if_all_workers_die_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("blobex.sweeps.sweep.DEATHS", 2)
    values = params()
    task = FormulaTask(values.sweep_cf)
    code = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(BlobexError, match="died one after the other: no such thing"):
        sweep(opened(tmp_path, task), task, values, 4, 2, code)


def test_a_worker_whose_sweep_is_gone_before_it_begins_tries_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(SUPERVISOR, "1")  # whose child this is not
    task = FormulaTask(params().sweep_cf)
    study = opened(tmp_path, task)
    work(study, task, params(), 3)
    assert study.counted() == 0


def test_database_instead_of_a_file(tmp_path):
    values = params()
    task, url = FormulaTask(values.sweep_cf), f"sqlite:///{tmp_path}/sweeps.db"
    study = opened(tmp_path / "a", task, url=url)
    work(study, task, values, 3)
    other = opened(tmp_path / "b", task, url=url)  # as from another machine
    assert other.counted() == 3 and not (tmp_path / "a" / "study.log").exists()
    with pytest.raises(BlobexError, match="install its driver"):
        opened(tmp_path, task, url="nonsense://x")


def test_password_of_a_database_is_on_no_command_line(tmp_path, monkeypatch):
    """Everybody may read command lines; a process's environment is its owner's."""
    seen = []
    monkeypatch.setattr(launch, "load_task", lambda *arguments: FormulaTask(params().sweep_cf))
    monkeypatch.setattr(launch, "sweep", lambda *arguments: seen.append(arguments) or {})
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/secret.db"
    (tmp_path / "params.yaml").write_text(params_text("smoke"))
    launch.run_sweep("cf", "rect", "rect", 3, 2, url, tmp_path, tmp_path / "params.yaml")
    assert not [word for word in seen[0][-1] if "secret" in word]
    code = "import os, sys; sys.exit(os.environ['BLOBEX_STORAGE'])"
    monkeypatch.setattr("blobex.sweeps.sweep.DEATHS", 1)
    with pytest.raises(BlobexError, match=r"secret\.db"):
        sweep(seen[0][0], FormulaTask(params().sweep_cf), params(), 3, 2, [sys.executable, "-c", code])


def test_tracked_as_a_run_within_a_run(tmp_path):
    values = params(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    task = FormulaTask(values.sweep_cf, broken=lambda settings: settings["steps"] == 200)
    study, _ = swept(tmp_path / "a", 3, task, values)
    client = mlflow_store.connect(values.run.tracking_uri)
    parent = client.get_run(study.study.user_attrs["run_id"])
    runs = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert {run.info.run_name: run.info.status for run in runs} == {
        "sweep_cf-rect-0": "FINISHED",
        "sweep_cf-rect-1": "FAILED",
        "sweep_cf-rect-2": "FINISHED",
    }
    run = next(run for run in runs if run.info.run_name.endswith("0"))
    assert run.data.params == {"explain.rect.learning_rate": "0.02", "explain.rect.steps": "50"}
    assert run.data.metrics["loss"] == pytest.approx(study.trials()[0].value)
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["0.png"]
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names == {"params.yaml", "best.yaml", "comparison.json", "trials.csv"}
    swept(tmp_path / "a", 4, task, values)
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"
    client.delete_run(parent.info.run_id)
    again, _ = swept(tmp_path / "a", 5, task, values)
    assert again.study.user_attrs["run_id"] != parent.info.run_id  # one that nobody deleted
