"""`make chaos-sweep`: kill workers of a sweep at random moments, and the sweep itself, and count lost trials.

The sweep tunes a formula, in processes of its own with studies and MLflow runs as real ones have. It is killed and
called again, and in the end called once more and left alone. BLOBEX_STORAGE names a database to use; else it is a file.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import closing, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState
from worlds.tiny_sweep import FormulaTask, command, opened, params, process_id, swept

from blobex.sweeps.storage import TRIES, VARIABLE
from blobex.sweeps.study import OpenStudy
from blobex.sweeps.trials import failure, retry_history
from blobex.tracking.store import connect

ENDLESS = 1000  # trials: no machine comes to their end before the last kill
KILLS_OF_ONE_SWEEP = 7
WORKERS = 3
SPARED = 4  # tries, more than sweeps that are killed
SECONDS = 0.5  # that a trial takes


@dataclass(frozen=True)
class Counts:
    """What became of the trials of a study that was disturbed."""

    kills: int  # of workers
    sweeps: int  # that were killed
    done: int
    lost: int  # with their workers
    wanted: int  # trials in all
    twice: int  # settings that were run to their end more than once
    missing: int  # settings that were lost with a worker and never tried again
    left: int  # trials that are still open
    unexplained: int  # trials that failed for another reason than a kill, or for none
    unnamed: int  # of the settings to begin with
    runs: dict[str, int]  # of MLflow, by their state

    def faults(self) -> list[str]:
        """What is not as it should be."""
        faults = [name for name in ("twice", "missing", "left", "unexplained", "unnamed") if getattr(self, name)]
        faults += ["done"] if self.done != self.wanted else []
        # A worker may die before its run begins, or after it has ended.
        closed = self.runs.get("FINISHED", 0) >= self.done and not self.runs.get("RUNNING")
        return faults + ([] if closed else ["runs"])


def disturbed(folder: Path, kills: int, seed: int, url: str | None = None) -> Counts:
    """Disturb a sweep, let it end, and count."""
    dice, killed, sweeps = random.Random(seed), set[str](), 0
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    values = params(uri)
    study = opened(folder, FormulaTask(values.sweep_cf), url=url)
    environment = os.environ | {VARIABLE: url or ""}
    endless = command(folder, ENDLESS, SECONDS, 0, uri, WORKERS)
    while len(killed) < kills:
        with subprocess.Popen(endless, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            try:
                until = min(len(killed) + KILLS_OF_ONE_SWEEP, kills)
                while len(killed) < until:
                    time.sleep(dice.uniform(0.2, 1.5))
                    assert process.poll() is None, "the sweep ended by itself"
                    killed |= _kill_one(study, killed, dice)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        sweeps += 1
    wanted = study.counted() + 5
    with redirect_stdout(None):
        last, _ = swept(folder, wanted, None, values, workers=2, url=url)
    with closing(study), closing(last):
        return counts(study.trials(), wanted, len(killed), sweeps, _runs(values, study))


def _kill_one(study: OpenStudy, killed: set[str], dice: random.Random) -> set[str]:
    """Kill a worker that runs a trial, if there is one; return its name.

    A trial that lost many workers already is spared: in the end the sweep would give it up.
    """
    running = study.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    workers = {
        trial.user_attrs["worker"]: trial
        for trial in running
        if "settings" in trial.user_attrs and len(retry_history(trial)) + 1 < TRIES - SPARED
    }
    names = sorted(set(workers) - killed)
    if not names:
        return set()
    name = dice.choice(names)
    try:
        os.kill(process_id(workers[name]), signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        return set()
    return {name}


def counts(trials: list[FrozenTrial], wanted: int, kills: int, sweeps: int, runs: dict[str, int]) -> Counts:
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    times = Counter(tuple(trial.params.values()) for trial in done)
    return Counts(
        kills=kills,
        sweeps=sweeps,
        done=len(done),
        lost=len(lost),
        wanted=wanted,
        twice=sum(count > 1 for count in times.values()),
        missing=sum(bool(trial.params) and tuple(trial.params.values()) not in times for trial in lost),
        left=sum(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials),
        unexplained=sum("killed" not in str(failure(trial)) for trial in lost),
        unnamed=len({"present", "published"} - {trial.user_attrs.get("name") for trial in done}),
        runs=runs,
    )


def _runs(values, study: OpenStudy) -> dict[str, int]:
    client = connect(values.run.tracking_uri)
    parent = client.get_run(study.study.user_attrs["run_id"])
    found = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    return dict(Counter(run.info.status for run in found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of workers")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blobex-chaos-") as folder:
        found = disturbed(Path(folder), given.kills, given.seed, os.environ.get(VARIABLE) or None)
    print(f"{found.kills} workers and {found.sweeps} sweeps killed: {found.lost} trials lost with their workers")
    print(f"{found.done} of {found.wanted} trials done; {found.twice} run twice, {found.missing} never tried again")
    print(f"{found.left} left open; runs in MLflow: {found.runs}")
    if found.faults():
        raise SystemExit(f"not as if nothing had happened: {', '.join(found.faults())}")


if __name__ == "__main__":
    main()
