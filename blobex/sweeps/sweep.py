"""Whole sweep: start, watch and replace workers, and write the reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import write_text
from blobex.sweeps.best import candidates, finalist_losses, measure_finalists, write_best
from blobex.sweeps.plots import write_plots
from blobex.sweeps.storage import VARIABLE
from blobex.sweeps.study import OpenStudy, recover
from blobex.sweeps.task import Task
from blobex.sweeps.trials import FINISHED, best_trial, described, excess, retried, write_trials
from blobex.sweeps.worker import SUPERVISOR, work
from blobex.tracking import runs as tracking

POLL = 0.2  # seconds
DEATHS = 10  # of workers, without a finished trial in between
Command = Sequence[str]


def sweep(opened: OpenStudy, task: Task, params: Params, goal: int, workers: int, command: Command) -> dict[str, Any]:
    """Run trials until the study has `goal` of them, and return the comparison on held-out data.

    A single worker is this process; several are processes of `command`, which must call `worker.work` for the same
    study. One that dies is replaced, and its trial is tried again. When this process is interrupted, its workers stop
    at once; when it is killed, they stop after their trial. Writes best.yaml, comparison.json, trials.csv and plots.

    Raises:
        BlobexError: if no trial succeeded, or if workers die one after the other.
    """
    run_id, folder = tracking.current_run_id(params, opened.study.user_attrs.get("run_id")), opened.folder.path
    with _interrupted_by_sigterm(), tracking.run(params, task.section, task.setup, None, run_id) as tracker:
        opened.study.set_user_attr("run_id", tracker.run_id)
        task.prepare()
        _recover(opened, params)
        progress = _Progress(opened)
        if workers == 1:
            work(opened, task, params, goal, progress.show)
        else:
            _supervise(opened, params, progress, goal, workers, command)
        measure_finalists(opened, task)
        best = write_best(opened, task)
        comparison = task.compare(candidates(opened))
        write_text(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
        table = write_trials(opened.trials(), folder / "trials.csv")
        trial = best_trial(opened.trials(), finalist_losses(opened))
        if excess(trial):
            print("no trial kept all limits: best.yaml holds the one that misses them least")
        tracker.log_metrics({"best_trial": trial.number, "best_loss": trial.user_attrs["loss"]})
        for path in [best, folder / "comparison.json", table, *write_plots(opened, task)]:
            tracker.log_artifact(path)
    return comparison


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that running trials are queued again."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _recover(opened: OpenStudy, params: Params) -> None:
    with opened.folder.exclusive():
        recover(opened)
    tracking.end_orphans(params, opened.study.user_attrs.get("run_id"))


def _supervise(
    opened: OpenStudy, params: Params, progress: _Progress, goal: int, workers: int, command: Command
) -> None:
    """Keep worker processes running until the goal is reached and all have ended. They share the cores."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // workers))}
    environment |= {VARIABLE: opened.folder.url or "", SUPERVISOR: str(os.getpid())}
    log = opened.folder.path / "workers" / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    deaths, alive = 0, list[subprocess.Popen[bytes]]()
    with log.open("ab") as output:
        try:
            while True:
                ended = [process for process in alive if process.poll() is not None]
                alive = [process for process in alive if process not in ended]
                if ended:
                    _recover(opened, params)
                deaths = 0 if progress.show() else deaths + sum(process.returncode != 0 for process in ended)
                if deaths >= DEATHS:
                    raise BlobexError(f"{deaths} workers died one after the other: {_last_line(log)}")
                left = goal - opened.counted()
                if not alive and left <= 0:
                    return
                while left > 0 and len(alive) < min(workers, goal):
                    alive.append(
                        subprocess.Popen(
                            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                        )
                    )
                time.sleep(POLL)
        finally:
            for process in alive:
                process.terminate()
            for process in alive:
                process.wait()
            _recover(opened, params)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1]} ({log})" if lines else "they printed nothing"


class _Progress:
    """Prints the trials that finished since the last call."""

    def __init__(self, opened: OpenStudy) -> None:
        self.opened = opened
        self.shown = {trial.number for trial in opened.trials() if trial.state in FINISHED}

    def show(self) -> bool:
        """Print new trials; return True if one of them came to its own end, rather than that of its worker."""
        trials = self.opened.trials()
        new = [trial for trial in trials if trial.state in FINISHED and trial.number not in self.shown]
        for trial in new:
            print(described(trial))
        self.shown |= {trial.number for trial in new}
        return bool({trial.number for trial in new} - retried(trials))
