"""Rates in images per second: training of every network, feature networks, rendering of scenes."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.config.training import Resume, Training
from blobex.datasets.datamodule import DecisionSet, DetectionSet, SegmentationSet
from blobex.metrics.frechet import FeatureNetwork
from blobex.networks.blobgan import BlobGAN
from blobex.networks.decision import DecisionModel
from blobex.networks.parser import Parser
from blobex.networks.perceptual import PerceptualDistance
from blobex.scenes.render import render
from blobex.scenes.sample import sample
from blobex.tracking.tracker import NullTracker
from blobex.training.decision import DecisionModule
from blobex.training.encoder import EncoderModule, EncoderPretrainModule, LossNetworks, build_encoder
from blobex.training.fit import EveryNSteps, fit
from blobex.training.gan import GanModule
from blobex.training.painting import PaintModule, painting_loss
from blobex.training.parser import ParserModule, parser_batches
from blobex.training.step_module import Batch, StepModule, sample_batches

WARM_UP = 4  # steps that are not timed
IMAGES = 256  # random, as their content does not change the speed
SCENES = 200
STAGES = ("parser", "decision", "blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder")

Jobs = dict[str, tuple[StepModule, Callable[[int], Batch]]]


def training_rates(params: Params, setup: str, steps: int) -> dict[str, float]:
    """Measure training images per second of every network, by stage, over `steps` steps from random weights.

    A batch of the parser counts twice, as it holds that many images with boxes and as many with masks.
    """
    jobs = _training_jobs(params, setup)
    rates = {name: _rate(*job, getattr(params, name).training, params, steps) for name, job in jobs.items()}
    return rates | {"parser": 2 * rates["parser"]}


def _training_jobs(params: Params, setup: str) -> Jobs:
    """Return the training module of every stage with its batches of random data."""
    size, seed = params.setup(setup), params.run.seed
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (IMAGES, 3, size.height, size.width), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 2, images[:, 0].shape, generator=random, dtype=torch.uint8)
    boxes = torch.tensor([[[0.0, 2.0, 2.0, 10.0, 10.0]]]).expand(IMAGES, 1, 5).contiguous()
    actions = torch.randint(0, 2, (IMAGES, 4), generator=random).float()
    decisions = DecisionSet(images, actions)
    detection, segmentation = DetectionSet(images, boxes, labels), SegmentationSet(images, labels, labels)
    blobgan = BlobGAN(params.blobgan.network, size.height, size.aspect_ratio).eval().requires_grad_(False)
    encoder = build_encoder(params.encoder_pretrain, size, blobgan, seed)
    parser = Parser(params.parser.channels, size.height, size.width)
    decision = DecisionModel(params.decision.architecture, size.height, size.width).eval().requires_grad_(False)
    losses = LossNetworks(PerceptualDistance(parser, parser.features), decision.features)
    painter = PaintModule(params.blobgan_pretrain, params.blobgan.network, size, losses.perceptual, seed)
    frozen = copy.deepcopy(painter.encoder).requires_grad_(False)
    blobs = params.blobgan.network.blobs
    xs, ys, sizes = (torch.rand(IMAGES, blobs, generator=random) for _ in range(3))
    ellipses = xs, ys, torch.randn(IMAGES, blobs, 4, generator=random), 3 * sizes
    mask, pasted = labels[:, None] > 0, torch.rand(IMAGES, blobs, generator=random) < 0.1
    paintings = (images, images.flip(0), images, mask, pasted, *ellipses, *ellipses)  # as `PaintingData.batch`
    batch_sizes = {name: _batch_size(getattr(params, name).training) for name in STAGES}
    pretraining = params.encoder_pretrain.training

    def cycle(name: str, *data: Tensor) -> Callable[[int], Batch]:
        count = torch.arange(batch_sizes[name])
        return lambda step: tuple(tensor[(count + step * batch_sizes[name]) % IMAGES] for tensor in data)

    def painting(model: BlobGAN, batch: Batch, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return painting_loss(model, frozen, losses.perceptual, params.blobgan_pretrain, batch, random)

    modules: dict[str, StepModule] = {
        "parser": ParserModule(params.parser, size, detection, segmentation, seed),
        "decision": DecisionModule(params.decision, size, decisions, seed),
        "blobgan_pretrain": painter,
        "blobgan": GanModule(params.blobgan, size, seed, painting),
        "encoder_pretrain": EncoderPretrainModule(encoder, blobgan, pretraining, seed, {"setup": setup}),
        "encoder": EncoderModule(copy.deepcopy(encoder), blobgan, losses, params.encoder, seed),
    }
    batches = {
        "parser": parser_batches(detection, segmentation, batch_sizes["parser"], seed),
        "decision": sample_batches((decisions.images, decisions.actions), IMAGES, params.decision.training, seed),
        **{name: cycle(name, *paintings) for name in ("blobgan_pretrain", "blobgan")},
        **{name: cycle(name, images) for name in ("encoder_pretrain", "encoder")},
    }
    return {name: (modules[name], batches[name]) for name in STAGES}


def _batch_size(training: Training) -> int:
    return training.batch_size * training.accumulate


def _rate(module: StepModule, batches: Callable[[int], Batch], training: Training, params: Params, steps: int) -> float:
    times: list[float] = []

    def clock(step: int, module: StepModule) -> None:
        times.append(time.perf_counter())

    checkpoint = dataclasses.replace(training.checkpoint, every_n_steps=10**6, monitor="step")
    resume = Resume("none", None, None)
    timed = dataclasses.replace(training, steps=WARM_UP + steps, checkpoint=checkpoint, resume=resume)
    one_device = dataclasses.replace(params.run, devices=1)
    with tempfile.TemporaryDirectory() as folder:
        fit(module, batches, timed, one_device, Path(folder), NullTracker(), [EveryNSteps(1, clock)])
    return steps * _batch_size(training) / (times[-1] - times[WARM_UP - 1])


def feature_rate(features: FeatureNetwork, height: int, width: int, batch_size: int, device: torch.device) -> float:
    """Measure images per second of the Frechet distance's feature network."""
    images = torch.zeros(batch_size, 3, height, width, dtype=torch.uint8, device=device)
    features(images)
    start = time.perf_counter()
    for _ in range(WARM_UP):
        features(images).cpu()
    return WARM_UP * batch_size / (time.perf_counter() - start)


def scene_rate(height: int) -> float:
    """Measure scenes per second, sampled and rendered with all labels in one process."""
    start = time.perf_counter()
    for seed in range(SCENES):
        render(sample(seed), height)
    return SCENES / (time.perf_counter() - start)
