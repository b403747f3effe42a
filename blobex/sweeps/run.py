"""The sweep as a whole: workers are started, watched and replaced, and what they found is put together."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from optuna.trial import FrozenTrial, TrialState

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import whole_file
from blobex.sweeps.best import best_trial, candidates, finals, measure_again, missed, write_best
from blobex.sweeps.plots import write_plots
from blobex.sweeps.storage import VARIABLE
from blobex.sweeps.study import FINISHED, Opened, counted, reason, recover
from blobex.sweeps.task import Task
from blobex.sweeps.worker import SUPERVISOR, work
from blobex.tracking import runs as tracking

POLL = 0.2  # seconds
DEATHS = 10  # of workers, with no trial finished in between
Command = Sequence[str]


def sweep(opened: Opened, task: Task, params: Params, goal: int, workers: int, command: Command) -> dict[str, Any]:
    """Try `goal` trials in all, with those of earlier calls, and give back the comparison on what no trial saw.

    One worker is this process itself; more are processes of `command`, which calls `worker.work` for the same study.
    One that dies is replaced, and its trial tried again. They end with this process: at once if it is asked to end, and
    if it was killed after the trial that they are at. The folder then holds best.yaml, comparison.json, trials.csv and
    plots. BlobexError: no trial succeeded, or workers die one after the other.
    """
    run_id, folder = tracking.known(params, opened.study.user_attrs.get("run_id")), opened.place.folder
    with _stoppable(), tracking.run(params, task.section, task.setup, None, run_id) as tracker:
        opened.study.set_user_attr("run_id", tracker.run_id)
        task.prepare()
        _recover(opened, params)
        watch = _Watch(opened)
        if workers == 1:
            work(opened, task, params, goal, watch.look)
        else:
            _supervise(opened, params, watch, goal, workers, command)
        measure_again(opened, task)
        best = write_best(opened, task)
        comparison = task.compare(candidates(opened))
        _write(folder / "comparison.json", json.dumps(comparison, indent=2) + "\n")
        files = [best, folder / "comparison.json", write_trials(opened), *write_plots(opened, task)]
        trial = best_trial(opened.trials(), finals(opened))
        if missed(trial):
            watch.say("no trial kept all limits: best.yaml holds the one that misses them least")
        tracker.log_metrics({"best_trial": trial.number, "best_loss": trial.user_attrs["loss"]})
        for path in files:
            tracker.log_artifact(path)
    return comparison


@contextmanager
def _stoppable() -> Iterator[None]:
    """A polite request to end, SIGTERM, is as good as Ctrl-C: what is being tried is put back."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _recover(opened: Opened, params: Params, ended: Sequence[subprocess.Popen[bytes]] = ()) -> None:
    with opened.place.claimed():
        recover(opened, {process.pid: process.returncode for process in ended})
    tracking.end_orphans(params, opened.study.user_attrs.get("run_id"))  # of workers killed before they told their run


def _supervise(opened: Opened, params: Params, watch: _Watch, goal: int, workers: int, command: Command) -> None:
    """Keep worker processes going until the goal is reached and none is left.

    They share the cores. Only here is a worker's death known at once; what dies with this process is found when the
    sweep is called again.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // workers))}
    environment |= {VARIABLE: opened.place.url or "", SUPERVISOR: str(os.getpid())}
    log = opened.place.folder / "workers" / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    deaths, alive = 0, list[subprocess.Popen[bytes]]()
    with log.open("ab") as output:
        try:
            while True:
                ended = [process for process in alive if process.poll() is not None]
                if ended:
                    _recover(opened, params, ended)
                alive = [process for process in alive if process not in ended]
                deaths = 0 if watch.look() else deaths + sum(process.returncode != 0 for process in ended)
                if deaths >= DEATHS:
                    raise BlobexError(f"{deaths} workers died one after the other: {_last_line(log)}")
                left = goal - counted(opened.trials())
                if not alive and left <= 0:
                    return
                while len(alive) < min(workers, left + _running(opened)):
                    alive.append(_start(command, environment, output))
                time.sleep(POLL)
        finally:
            for process in alive:
                process.terminate()
            for process in alive:
                process.wait()
            _recover(opened, params, alive)


def _running(opened: Opened) -> int:
    """How many trials are being tried on this machine."""
    running = [trial for trial in opened.trials() if trial.state == TrialState.RUNNING]
    return sum(trial.user_attrs.get("worker", [""])[0] == socket.gethostname() for trial in running)


def _start(command: Command, environment: dict[str, str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1]} ({log})" if lines else "they said nothing"


class _Watch:
    """Prints each trial that was finished since the last look."""

    def __init__(self, opened: Opened, say: Callable[[str], None] = print) -> None:
        self.opened, self.say = opened, say
        self.known = {trial.number for trial in opened.trials() if trial.state in FINISHED}

    def look(self) -> bool:
        """Whether a trial has come to its own end, and was not killed."""
        new = [t for t in self.opened.trials() if t.state in FINISHED and t.number not in self.known]
        for trial in new:
            self.say(described(trial))
        self.known |= {trial.number for trial in new}
        return any("killed" not in trial.user_attrs for trial in new)


def described(trial: FrozenTrial) -> str:
    """A trial in one line."""
    attributes = trial.user_attrs
    settings = "  ".join(f"{name} {value:g}" for name, value in attributes.get("settings", {}).items())
    name = f" ({attributes['name']})" if "name" in attributes else ""
    if trial.state == TrialState.FAIL:
        return f"trial {trial.number}{name}: failed: {reason(trial)}  [{settings}]"
    stopped = attributes.get("stopped_after")
    end = f", hopeless after {stopped}" if stopped is not None else ", misses a limit" if missed(trial) else ""
    measures = "  ".join(f"{key} {value:.4g}" for key, value in attributes["measures"].items())
    return f"trial {trial.number}{name}: loss {attributes['loss']:.5g}  {measures}{end}  [{settings}]"


def write_trials(opened: Opened) -> Path:
    """Write trials.csv: one row per trial."""
    rows = []
    for trial in opened.trials():
        known = trial.user_attrs
        row = {"trial": trial.number, "name": known.get("name"), "state": trial.state.name.lower()}
        row |= {"loss": known.get("loss"), **known.get("settings", {}), **known.get("measures", {})}
        row |= {f"over_{name}": value for name, value in trial.constraints.items()}
        rows.append(row | {key: known.get(key) for key in ("stopped_after", "again")} | {"reason": reason(trial)})
    path = opened.place.folder / "trials.csv"
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
