"""Sweeps of a formula whose best settings are known, with one worker and with workers that are killed."""

import csv
import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from chaos_sweep import disturbed
from optuna.trial import TrialState, create_trial
from worlds.profiles import params_text, profile_params
from worlds.tiny_sweep import INSTANCES, FormulaTask, command, opened, params, process_id, repeats, swept

from blobex.config.read import load_params
from blobex.config.sweeps import Range
from blobex.config.write import replace_values
from blobex.core.errors import BlobexError
from blobex.core.processes import this_process
from blobex.sweeps import launch, space
from blobex.sweeps.best import apply
from blobex.sweeps.plots import history, on_front, pareto
from blobex.sweeps.storage import TRIES
from blobex.sweeps.study import recover
from blobex.sweeps.sweep import sweep
from blobex.sweeps.trials import best_trial, failure
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


def test_ranges():
    wide = space.widened({"a": Range(1, 2, True, False)}, {"x": {"a": 0}, "y": {"a": 5}})
    assert wide["a"] == Range(1, 5, True, False)
    assert space.clamped({"a": Range(1, 5, True, True)}, {"a": 0, "b": 3}) == {"a": 1}
    assert space.from_json(json.loads(json.dumps(space.to_json(wide)))) == wide
    for bad, message in (
        ({"a": Range(2, 1, False, False)}, "low must be below high"),
        ({"a": Range(0, 1, True, False)}, "above 0"),
        ({"a": Range(0.5, 1, True, True)}, "whole numbers"),
        ({"travel": Range(1, 2, True, False), "learning_rate": Range(1, 2, True, False)}, "leave learning_rate out"),
        ({}, "empty"),
    ):
        with pytest.raises(BlobexError, match=message):
            space.checked(bad, "sweep_cf")


def test_apply_changes_the_numbers_and_nothing_else(tmp_path):
    path, best = tmp_path / "params.yaml", tmp_path / "best.yaml"
    text, smoke = params_text("smoke"), profile_params("smoke")
    path.write_text(text)
    values = {"explain.rect.learning_rate": 1e-05, "explain.rect.steps": 33, "explain.rect.lambda_key.xs": 7.5}
    best.write_text(yaml.safe_dump({"values": values}))
    changes = apply(best, path)
    assert changes["explain.rect.steps"] == (smoke.explain.rect.steps, 33)
    setup = load_params(path).explain.rect
    assert (setup.learning_rate, setup.steps, setup.lambda_key["xs"]) == (1e-05, 33, 7.5)
    changed = [(a, b) for a, b in zip(text.splitlines(), path.read_text().splitlines(), strict=True) if a != b]
    assert len(changed) == 3 and all(a.partition("#")[1:] == b.partition("#")[1:] for a, b in changed)
    assert load_params(path).explain.square == smoke.explain.square
    before = path.read_text()
    best.write_text(yaml.safe_dump({"values": {"explain.rect.steps": 0}}))
    with pytest.raises(BlobexError, match=r"explain\.rect\.steps is 0"):
        apply(best, path)
    with pytest.raises(BlobexError, match=r"no key explain\.rect\.stride"):
        replace_values(text, {"explain.rect.stride": 1})
    with pytest.raises(BlobexError, match="run the sweep first"):
        apply(tmp_path / "none.yaml", path)
    assert path.read_text() == before


def taken(study, worker):
    """Leave a trial running, as if `worker` had taken it; None: killed before it noted its name."""
    trial = study.study.ask()
    for name, entry in study.space().items():
        (trial.suggest_int if entry.whole else trial.suggest_float)(name, entry.low, entry.high, log=entry.log)
    if worker is not None:
        trial.set_user_attr("worker", worker)
    return trial.number


DEAD = this_process() + "0"  # a process of this machine that was started at another time


@pytest.mark.parametrize("worker", [DEAD, None])
def test_lost_trial_fails_with_its_reason_and_is_tried_again_once(tmp_path, worker):
    values = params()
    task = FormulaTask(values.sweep_cf)
    study = opened(tmp_path, task)
    taken(study, worker)
    for _ in range(2):
        recover(study)
    work(study, task, values, 4)
    lost, _, again, *_ = study.trials()
    assert lost.state == TrialState.FAIL and "killed" in failure(lost)
    assert repeats(study.trials()) == [lost.number] and again.user_attrs["name"] == "present"
    assert again.params == lost.params and again.state == TrialState.COMPLETE
    assert study.counted() == 4 and len(study.trials()) == 5


@pytest.mark.parametrize("worker", [this_process(), "elsewhere 1 1"])
def test_trial_of_a_living_worker_or_of_another_machine_goes_on(tmp_path, worker):
    study = opened(tmp_path)
    number = taken(study, worker)
    recover(study)
    assert study.trials()[number].state == TrialState.RUNNING and repeats(study.trials()) == []


def test_trial_that_kills_every_worker_is_given_up(tmp_path):
    study = opened(tmp_path)
    for _ in range(3 * TRIES):
        taken(study, None)
        recover(study)
    tries = [trial for trial in study.trials() if trial.user_attrs.get("name") == "present"]
    assert len(tries) == TRIES and {trial.state for trial in tries} == {TrialState.FAIL}
    assert study.counted() == 3  # two starting trials and a random one, each given up


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Heartbeat of storage")
def test_trial_of_a_machine_that_went_silent_is_tried_again(tmp_path, monkeypatch):
    """Its process cannot be seen from here, but its heartbeat in the database stops."""
    monkeypatch.setattr("blobex.sweeps.storage.HEARTBEAT", 1)
    monkeypatch.setattr("blobex.sweeps.storage.GRACE", 2)
    url, values = f"sqlite:///{tmp_path}/sweeps.db", params()
    environment = os.environ | {"BLOBEX_STORAGE": url}
    there = subprocess.Popen(command(tmp_path / "there", 1, 60.0), env=environment)
    here = opened(tmp_path / "here", url=url)
    (number,) = busy(here, 1)
    os.kill(number, signal.SIGKILL)
    there.wait()
    (lost,) = here.study.get_trials(states=(TrialState.RUNNING,))
    here.storage.set_trial_user_attr(lost._trial_id, "worker", "elsewhere 1 1")
    recover(here)
    assert here.trials()[lost.number].state == TrialState.RUNNING
    time.sleep(3.5)
    recover(here)
    recover(here)
    assert failure(here.trials()[lost.number]) == "its worker went silent" and repeats(here.trials()) == [lost.number]
    work(here, FormulaTask(values.sweep_cf), values, 4)
    assert here.counted() == 4 and {t.state for t in here.trials() if t.number != lost.number} == {TrialState.COMPLETE}


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


@pytest.mark.slow
def test_killing_workers_and_the_sweep_loses_nothing(tmp_path):
    """20 workers are killed at random moments; the sweep itself is killed too and called again."""
    counts = disturbed(tmp_path, kills=20, seed=0)
    assert counts.faults() == []
    assert counts.kills == 20 and counts.sweeps >= 2
    assert counts.lost >= 15  # a kill may come between two trials


@pytest.mark.slow
def test_trial_that_takes_too_much_memory_fails_with_its_reason(tmp_path):
    """The system's way to say so is SIGKILL: whoever tries the published 200 steps gets it."""
    study, compared = swept(tmp_path, 5, workers=2, deadly=200)
    tries = [trial for trial in study.trials() if trial.user_attrs.get("name") == "published"]
    assert len(tries) == TRIES and {trial.state for trial in tries} == {TrialState.FAIL}
    assert all("killed" in failure(trial) and "memory" in failure(trial) for trial in tries)
    assert set(compared["measures"]) == {"present", "best"}
    done = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    assert len(done) == 4 and study.counted() == 5
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [row["reason"] for row in rows if row["name"] == "published"] == [failure(trial) for trial in tries]


def busy(study, count):
    """Wait until `count` processes run a trial each; return their process ids."""
    for _ in range(3000):  # a busy machine starts processes slowly
        running = study.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ids = {process_id(trial) for trial in running if "settings" in trial.user_attrs}
        if len(ids) == count:
            return ids
        time.sleep(0.1)
    raise AssertionError("no worker began a trial")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_sweep_queues_its_trials_again(tmp_path, workers):
    study = opened(tmp_path)
    with subprocess.Popen(command(tmp_path, 20, 30.0, workers=workers), stderr=subprocess.DEVNULL) as process:
        numbers = busy(study, workers)
        process.terminate()
        assert process.wait(timeout=60) != 0
    assert not [number for number in numbers if Path(f"/proc/{number}").exists()]
    states = [trial.state for trial in study.trials()]
    assert TrialState.RUNNING not in states and study.counted() == 0
    assert states.count(TrialState.WAITING) >= workers
    names = {trial.user_attrs.get("name") for trial in study.trials() if trial.state == TrialState.WAITING}
    assert {"present", "published"} <= names


@pytest.mark.slow
def test_workers_of_a_killed_sweep_end_after_their_trial(tmp_path):
    study = opened(tmp_path)
    with subprocess.Popen(command(tmp_path, 20, 3.0, workers=2)) as process:
        numbers = busy(study, 2)
        process.kill()
    for _ in range(600):
        if not [number for number in numbers if Path(f"/proc/{number}").exists()]:
            break
        time.sleep(0.1)
    states = [trial.state for trial in study.trials()]
    assert states == [TrialState.COMPLETE] * 2
