"""Small decision models trained from several seeds, to measure how detection varies between trainings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from blobex.config.params import Params
from blobex.config.training import Resume
from blobex.datasets.datamodule import load_planted
from blobex.networks import weights
from blobex.tracking.tracker import NullTracker
from blobex.training.decision import DecisionModule
from blobex.training.fit import fit
from blobex.training.step_module import derive_seed, sample_batches


def train_small_model(params: Params, setup: str, rule: str, number: int, folder: Path) -> Path:
    """Train small model `number` of a rule into `folder`, which is returned; a stopped training resumes.

    All randomness derives from run.seed and the number, so model 0 of every rule has the same initial weights.
    """
    resume = Resume("last", None, None)
    training = dataclasses.replace(params.decision.training, steps=params.truth.seed_steps, resume=resume)
    seed = derive_seed(params.run.seed, number) % 2**31
    small = dataclasses.replace(params.decision, architecture="densenet_small", training=training)
    data = load_planted(params, setup, "train", rule)
    module = DecisionModule(small, params.setup(setup), data, seed)
    batches = sample_batches((data.images, data.actions), len(data.images), training, seed)
    one_device = dataclasses.replace(params.run, devices=1)
    fit(module, batches, training, one_device, folder / "checkpoints", NullTracker())
    weights.save(folder, "decision", {"setup": setup, "variant": rule, **module.model.config}, module.model)
    return folder
