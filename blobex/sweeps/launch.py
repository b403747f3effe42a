"""Start of a sweep of trained networks; also the command of its worker processes."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import typer

from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError, sentence
from blobex.explain.explainer import Explainer
from blobex.networks.blobgan import load_blobgan
from blobex.sweeps.best import BEST
from blobex.sweeps.storage import KINDS, VARIABLE, StudyFolder, folder_of
from blobex.sweeps.study import begin
from blobex.sweeps.sweep import sweep
from blobex.sweeps.sweep_images import split_images
from blobex.sweeps.task import Task
from blobex.sweeps.tune_counterfactual import CounterfactualTask
from blobex.sweeps.tune_encoder import EncoderTask
from blobex.sweeps.tune_inversion import InversionTask
from blobex.sweeps.worker import work


def load_task(kind: str, setup: str, params: Params, models: Path, folder: Path) -> Task:
    """Load the task of a sweep; raise BlobexError if the kind is unknown, or networks or images are missing."""
    if kind == "encoder":
        return EncoderTask(params.for_setup(setup), setup, load_blobgan(models / "blobgan" / setup))
    if kind not in KINDS:
        raise BlobexError(f"unknown sweep {kind!r}: choose from {', '.join(KINDS)}")
    options = params.sweep_cf if kind == "cf" else params.sweep_invert
    explainer = Explainer.load(setup, models, params)
    images = split_images(params, setup, options.images, options.finals, options.held_out)
    return CounterfactualTask(explainer, images, folder) if kind == "cf" else InversionTask(explainer, images)


def run_sweep(
    kind: str, setup: str, name: str, trials: int | None, workers: int, storage: str | None, models: Path, params: Path
) -> tuple[Path, dict[str, Any]]:
    """Begin or continue the study `name`; return the path of its best.yaml and the comparison on held-out images."""
    folder, values = StudyFolder(folder_of(kind, name), storage), load_params(params)
    task = load_task(kind, setup, values, models, folder.path)
    opened = begin(task, folder, f"sweep_{kind}-{name}")
    goal = task.options.trials if trials is None else trials
    command = [sys.executable, "-m", "blobex.sweeps.launch", kind, setup, name, str(goal), str(models), str(params)]
    with closing(opened):
        return folder.path / BEST, sweep(opened, task, values, goal, workers, command)


def main(kind: str, setup: str, name: str, goal: int, models: Path, params: Path) -> None:
    """Run trials of a study that was begun, until none is left."""
    folder, values = StudyFolder(folder_of(kind, name), os.environ.get(VARIABLE) or None), load_params(params)
    task = load_task(kind, setup, values, models, folder.path)
    with closing(begin(task, folder, f"sweep_{kind}-{name}")) as opened:
        work(opened, task, values, goal)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (BlobexError, OSError) as error:
        sys.exit(f"blobex: {sentence(error)}")
