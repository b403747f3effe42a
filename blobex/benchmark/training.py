"""Pictures per second of every network's training, of features and of scenes."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from blobex.config import Params, Training
from blobex.datasets.datamodule import DecisionSet
from blobex.metrics.frechet import FeatureNetwork
from blobex.networks.blobgan import BlobGAN
from blobex.scenes.render import render
from blobex.scenes.sample import sample
from blobex.training.decision import DecisionModule, decision_batches
from blobex.training.encoder import EncoderPretrainModule, build_encoder
from blobex.training.fit import Batch, StepModule, fit
from blobex.training.gan import EveryNSteps, GanModule
from blobex.training.tracker import NullTracker

WARM = 4  # steps before the clock runs
PICTURES = 256  # random ones: what they show does not matter to the clock
SCENES = 200


def training_rates(params: Params, setup_name: str, steps: int) -> dict[str, float]:
    """Training pictures per second of BlobGAN, encoder and decision model, by stage, over `steps` steps."""
    setup, seed = params.setup(setup_name), params.run.seed
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (PICTURES, 3, setup.height, setup.width), generator=random, dtype=torch.uint8)
    actions = torch.randint(0, 2, (PICTURES, 4), generator=random).float()
    data = DecisionSet(images, actions, torch.zeros(PICTURES, 21))
    blobgan = BlobGAN(params.blobgan.network, setup.height, setup.aspect_ratio).eval().requires_grad_(False)
    encoder = build_encoder(params.encoder_pretrain, setup, blobgan, seed)
    options = {name: getattr(params, name).training for name in ("blobgan", "encoder_pretrain", "decision")}

    def some(step: int, size: int) -> Batch:
        return (images[(torch.arange(size) + step * size) % PICTURES],)

    jobs: dict[str, tuple[StepModule, Callable[[int], Batch]]] = {
        "blobgan": (GanModule(params.blobgan, setup, seed), lambda step: some(step, options["blobgan"].batch_size)),
        "encoder_pretrain": (
            EncoderPretrainModule(encoder, blobgan, options["encoder_pretrain"], seed, {"setup": setup_name}),
            lambda step: (torch.full((options["encoder_pretrain"].batch_size,), step),),
        ),
        "decision": (
            DecisionModule(params.decision, setup, data, seed),
            decision_batches(data, options["decision"].batch_size, seed),
        ),
    }
    return {name: _rate(module, batches, options[name], params, steps) for name, (module, batches) in jobs.items()}


def _rate(module: StepModule, batches: Callable[[int], Batch], training: Training, params: Params, steps: int) -> float:
    """Pictures per second, the first steps left out."""
    marks: list[float] = []

    def clock(step: int, module: StepModule) -> None:
        marks.append(time.perf_counter())

    checkpoint = dataclasses.replace(training.checkpoint, every_n_steps=10**6, monitor="step")
    once = dataclasses.replace(training, steps=WARM + steps, checkpoint=checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, batches, once, params.run, Path(folder), NullTracker(), [EveryNSteps(1, clock)])
    return steps * training.batch_size * training.accumulate / (marks[-1] - marks[WARM - 1])


def feature_rate(features: FeatureNetwork, height: int, width: int, batch_size: int, device: torch.device) -> float:
    """Pictures per second of the Frechet distance's network."""
    images = torch.zeros(batch_size, 3, height, width, dtype=torch.uint8, device=device)
    features(images)
    begun = time.perf_counter()
    for _ in range(WARM):
        features(images).cpu()
    return WARM * batch_size / (time.perf_counter() - begun)


def scene_rate(height: int) -> float:
    """Scenes per second sampled and rendered with all their labels, in one process."""
    begun = time.perf_counter()
    for seed in range(SCENES):
        render(sample(seed), height)
    return SCENES / (time.perf_counter() - begun)
