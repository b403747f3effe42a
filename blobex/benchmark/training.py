"""Pictures per second of every network's training, of features and of scenes."""

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
from blobex.metrics.feature_networks import FeatureNetwork
from blobex.networks.blobgan import BlobGAN
from blobex.networks.decision import DecisionModel
from blobex.networks.parser import Parser
from blobex.networks.perceptual import PerceptualDistance
from blobex.scenes.render import render
from blobex.scenes.sample import sample
from blobex.tracking.tracker import NullTracker
from blobex.training.blobgan_pretrain import PaintModule, painting_loss
from blobex.training.callbacks import EveryNSteps
from blobex.training.decision import DecisionModule, decision_batches
from blobex.training.encoder import EncoderModule, EncoderPretrainModule, LossNetworks, build_encoder
from blobex.training.fit import fit
from blobex.training.gan import GanModule
from blobex.training.parser import ParserModule, parser_batches
from blobex.training.step_module import Batch, StepModule

WARM = 4  # steps before the clock runs
PICTURES = 256  # random ones: what they show does not matter to the clock
SCENES = 200


def training_rates(params: Params, setup_name: str, steps: int) -> dict[str, float]:
    """Training pictures per second of every network, by stage, over `steps` steps; the weights are fresh.

    A parser's batch counts twice, as it holds that many pictures with boxes and as many with masks.
    """
    setup, seed = params.setup(setup_name), params.run.seed
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (PICTURES, 3, setup.height, setup.width), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 2, images[:, 0].shape, generator=random, dtype=torch.uint8)
    boxes = torch.tensor([[[0.0, 2.0, 2.0, 10.0, 10.0]]]).expand(PICTURES, 1, 5).contiguous()
    actions = torch.randint(0, 2, (PICTURES, 4), generator=random).float()
    decisions = DecisionSet(images, actions)
    detection, segmentation = DetectionSet(images, boxes, labels), SegmentationSet(images, labels, labels)
    blobgan = BlobGAN(params.blobgan.network, setup.height, setup.aspect_ratio).eval().requires_grad_(False)
    encoder = build_encoder(params.encoder_pretrain, setup, blobgan, seed)
    parser = Parser(params.parser.channels, setup.height, setup.width)
    decision = DecisionModel(params.decision.architecture, setup.height, setup.width).eval().requires_grad_(False)
    losses = LossNetworks(PerceptualDistance(parser, parser.features), decision.features)
    painter = PaintModule(params.blobgan_pretrain, params.blobgan.network, setup, losses.perceptual, seed)
    frozen = copy.deepcopy(painter.encoder).requires_grad_(False)
    places = _places(params.blobgan.network.blobs, random)
    stages = ("parser", "decision", "blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder")
    options: dict[str, Training] = {name: getattr(params, name).training for name in stages}
    sizes = {name: option.batch_size * option.accumulate for name, option in options.items()}

    def some(name: str, *data: Tensor) -> Callable[[int], Batch]:
        return lambda step: tuple(each[(torch.arange(sizes[name]) + step * sizes[name]) % PICTURES] for each in data)

    def painting(model: BlobGAN, batch: Batch, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return painting_loss(model, frozen, losses.perceptual, params.blobgan_pretrain, batch, random)

    jobs: dict[str, tuple[StepModule, Callable[[int], Batch]]] = {
        "parser": (
            ParserModule(params.parser, setup, detection, segmentation, seed),
            parser_batches(detection, segmentation, sizes["parser"], seed),
        ),
        "decision": (
            DecisionModule(params.decision, setup, decisions, seed),
            decision_batches(decisions, sizes["decision"], seed),
        ),
        "blobgan_pretrain": (painter, some("blobgan_pretrain", images, *places)),
        "blobgan": (GanModule(params.blobgan, setup, seed, painting), some("blobgan", images, *places)),
        "encoder_pretrain": (
            EncoderPretrainModule(encoder, blobgan, options["encoder_pretrain"], seed, {"setup": setup_name}),
            some("encoder_pretrain", images),
        ),
        "encoder": (
            EncoderModule(copy.deepcopy(encoder), blobgan, losses, params.encoder, seed),
            some("encoder", images),
        ),
    }
    rates = {name: _rate(module, batches, options[name], params, steps) for name, (module, batches) in jobs.items()}
    return rates | {"parser": 2 * rates["parser"]}


def _places(blobs: int, random: torch.Generator) -> tuple[Tensor, ...]:
    """xs, ys, covs and sizes of random blobs."""
    xs, ys, sizes = (torch.rand(PICTURES, blobs, generator=random) for _ in range(3))
    return xs, ys, torch.randn(PICTURES, blobs, 4, generator=random), 3 * sizes


def _rate(module: StepModule, batches: Callable[[int], Batch], training: Training, params: Params, steps: int) -> float:
    """Pictures per second, the first steps left out."""
    marks: list[float] = []

    def clock(step: int, module: StepModule) -> None:
        marks.append(time.perf_counter())

    checkpoint = dataclasses.replace(training.checkpoint, every_n_steps=10**6, monitor="step")
    resume = Resume("none", None, None)
    once = dataclasses.replace(training, steps=WARM + steps, checkpoint=checkpoint, resume=resume)
    alone = dataclasses.replace(params.run, devices=1)  # one command measures several networks
    with tempfile.TemporaryDirectory() as folder:
        fit(module, batches, once, alone, Path(folder), NullTracker(), [EveryNSteps(1, clock)])
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
