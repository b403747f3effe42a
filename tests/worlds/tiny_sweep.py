"""Sweep of a formula, without networks; also the command of its worker processes.

The best setting is learning_rate 0.1 at steps 100: the loss is the squared distance to it, in powers of ten.
"""

import dataclasses
import math
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from worlds.profiles import profile_params

from blobex.config.sweeps import Range
from blobex.core.errors import BlobexError
from blobex.sweeps.storage import VARIABLE, StudyFolder
from blobex.sweeps.study import begin
from blobex.sweeps.sweep import sweep
from blobex.sweeps.task import Outcome, rounded
from blobex.sweeps.worker import work

TESTS = str(Path(__file__).parents[1])
INSTANCES = 12


def params(uri="none", **options):
    values = profile_params("smoke")
    swept = dataclasses.replace(values.sweep_cf, **{"sampler": "random", "pruner": "none", "flip_rate": 0.8, **options})
    return dataclasses.replace(values, run=dataclasses.replace(values.run, tracking_uri=uri), sweep_cf=swept)


class FormulaTask:
    section, setup = "sweep_cf", "rect"
    space = {"travel": Range(0.2, 200, True, False), "steps": Range(10, 1000, True, True)}
    directions = {"flip_rate": "maximize", "perceptual": "minimize", "seconds": "minimize"}

    def __init__(self, options, seconds=0.0, broken=lambda settings: False, version=1):
        self.options, self.seconds, self.broken, self.version = options, seconds, broken, version

    def identity(self):
        return {"version": self.version}

    def starts(self):
        return {"present": {"travel": 1.0, "steps": 50}, "published": {"travel": 2.0, "steps": 200}}

    def settings(self, values):
        return {"learning_rate": rounded(values["travel"] / values["steps"]), "steps": values["steps"]}

    def keys(self, settings):
        return {f"explain.rect.{name}": value for name, value in settings.items()}

    def prepare(self):
        pass

    def loss(self, settings, instance):
        rate, steps = math.log10(settings["learning_rate"] / 0.1), math.log10(settings["steps"] / 100)
        return rate**2 + steps**2 + 0.01 * instance

    def measure(self, settings, report):
        if self.broken(settings):
            raise BlobexError("it broke")
        time.sleep(self.seconds)
        losses, stopped = {}, None
        for instance in range(INSTANCES):
            losses[instance] = self.loss(settings, instance)
            if report({instance: losses[instance]}):
                stopped = len(losses)
                break
        loss, rate = float(np.mean(list(losses.values()))), 1 - abs(math.log10(settings["steps"] / 100)) / 2
        measures = {"flip_rate": rate, "perceptual": loss, "seconds": settings["steps"] / 1000}
        limits = {"flip_rate": self.options.flip_rate - rate}
        return Outcome(loss, measures, limits, stopped, np.full((8, 8, 3), 9, np.uint8))

    def again(self, settings):
        return self.loss(settings, 0)

    def compare(self, candidates):
        return {"pictures": 1, "measures": {n: {"loss": self.loss(s, 0)} for n, s in candidates.items()}}


def opened(folder, task=None, name="study", url=None):
    return begin(task or FormulaTask(params().sweep_cf), StudyFolder(Path(folder), url), name)


def process_id(trial):
    """Return the process id of a running trial's worker."""
    return int(trial.user_attrs["worker"].split()[1])


def repeats(trials):
    """Return the numbers of the trials that were tried again, once for each repetition."""
    return [trial.system_attrs["retry_history"][-1] for trial in trials if "retry_history" in trial.system_attrs]


def command(folder, goal, seconds=0.0, deadly=0, uri="none", workers=0):
    """Return the command of a worker or, with `workers`, of a sweep with that many."""
    code = f"import sys; sys.path.append({TESTS!r}); from worlds.tiny_sweep import main; main(*sys.argv[1:])"
    return [sys.executable, "-c", code, *map(str, (folder, goal, seconds, deadly, uri, workers))]


def swept(folder, goal=10, task=None, values=None, workers=1, seconds=0.0, name="study", url=None, deadly=0):
    """Run a sweep; return its study and comparison. Trials of `deadly` steps kill their workers."""
    values = values or params()
    task = task or FormulaTask(values.sweep_cf, seconds)
    study = opened(folder, task, name, url)
    workers_command = command(folder, goal, seconds, deadly, values.run.tracking_uri)
    return study, sweep(study, task, values, goal, workers, workers_command)


def main(folder, goal, seconds, deadly, uri, workers):
    """Run the process of `command`."""
    values, url = params(uri), os.environ.get(VARIABLE) or None
    if workers != "0":
        swept(folder, int(goal), None, values, int(workers), float(seconds), url=url)
        return
    deadly = int(deadly)
    task = FormulaTask(values.sweep_cf, float(seconds), lambda settings: settings["steps"] == deadly and die())
    work(opened(folder, task, url=url), task, values, int(goal))


def die():
    os.kill(os.getpid(), signal.SIGKILL)
