"""Trials whose workers are killed, are interrupted or go silent, and sweeps that are killed."""

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from chaos_sweep import disturbed
from optuna.trial import TrialState
from worlds.tiny_sweep import FormulaTask, command, opened, params, process_id, repeats, swept

from blobex.core.processes import this_process
from blobex.sweeps.storage import TRIES
from blobex.sweeps.study import recover
from blobex.sweeps.trials import failure
from blobex.sweeps.worker import work


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Plots take seconds: these tests do without."""
    monkeypatch.setattr("blobex.sweeps.sweep.write_plots", lambda opened, task: [])


def taken(study, worker):
    """Leave a trial running, as if `worker` had taken it; None: killed before it noted its name."""
    trial = study.study.ask()
    for name, entry in study.space().items():
        (trial.suggest_int if entry.whole else trial.suggest_float)(name, entry.low, entry.high, log=entry.log)
    if worker is not None:
        trial.set_user_attr("worker", worker)
    return trial.number


DEAD = this_process() + "0"  # a process of this machine that was started at another time


@pytest.mark.parametrize("worker", [DEAD, None], ids=["dead", "unnamed"])
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


@pytest.mark.parametrize("worker", [this_process(), "elsewhere 1 1"], ids=["alive", "elsewhere"])
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
