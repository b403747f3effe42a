"""The tasks by name, made of a setup's trained networks; also the command of a sweep's worker process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError, sentence
from blobex.explain.explainer import Explainer
from blobex.networks.blobgan import load_blobgan
from blobex.sweeps.best import BEST
from blobex.sweeps.counterfactual_task import CounterfactualTask
from blobex.sweeps.encoder_task import EncoderTask
from blobex.sweeps.images import parts
from blobex.sweeps.inversion_task import InversionTask
from blobex.sweeps.run import sweep
from blobex.sweeps.storage import KINDS, VARIABLE, Place, folder_of
from blobex.sweeps.study import begin
from blobex.sweeps.task import Task
from blobex.sweeps.worker import work


def load_task(kind: str, setup: str, params: Params, models: Path, folder: Path) -> Task:
    """The task of a kind; BlobexError: there is no such kind, or networks or pictures are missing."""
    if kind == "encoder":
        return EncoderTask(params.for_setup(setup), setup, load_blobgan(models / "blobgan" / setup))
    if kind not in KINDS:
        raise BlobexError(f"unknown sweep {kind!r}: choose from {', '.join(KINDS)}")
    options = params.sweep_cf if kind == "cf" else params.sweep_invert
    explainer = Explainer.load(setup, models, params)
    pictures = parts(params, setup, options.images, options.finals, options.held_out)
    return CounterfactualTask(explainer, pictures, folder) if kind == "cf" else InversionTask(explainer, pictures)


def run_sweep(
    kind: str, setup: str, name: str, trials: int | None, workers: int, storage: str | None, models: Path, params: Path
) -> tuple[Path, dict[str, Any]]:
    """Go on with the study of this name, or begin it; its best.yaml and the comparison on what no trial saw."""
    place, values = Place(folder_of(kind, name), storage), load_params(params)
    task = load_task(kind, setup, values, models, place.folder)
    opened = begin(task, place, f"sweep_{kind}-{name}")
    goal = task.options.trials if trials is None else trials
    command = [sys.executable, "-m", "blobex.sweeps.tasks", kind, setup, name, str(goal), str(models), str(params)]
    with closing(opened):
        return place.folder / BEST, sweep(opened, task, values, goal, workers, command)


def main(arguments: Sequence[str] | None = None) -> None:
    """A worker: try trials of a study that was begun, until there are none left."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("kind", "setup", "name"):
        parser.add_argument(name)
    parser.add_argument("trials", type=int)
    for name in ("models", "params"):
        parser.add_argument(name, type=Path)
    given = parser.parse_args(arguments)
    params, place = (
        load_params(given.params),
        Place(folder_of(given.kind, given.name), os.environ.get(VARIABLE) or None),
    )
    task = load_task(given.kind, given.setup, params, given.models, place.folder)
    with closing(begin(task, place, f"sweep_{given.kind}-{given.name}")) as opened:
        work(opened, task, params, given.trials)


if __name__ == "__main__":
    try:
        main()
    except (BlobexError, OSError) as error:
        sys.exit(f"blobex: {sentence(error)}")
