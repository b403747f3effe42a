"""Tuning of the encoder's training on generated images: the variance of w that it explains after few steps."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blobex.config.params import Params
from blobex.config.read import parse
from blobex.config.sweeps import Range
from blobex.config.training import Training
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import checksum
from blobex.networks.blobgan import BlobGAN
from blobex.sweeps.best import Samples, comparison
from blobex.sweeps.task import Directions, Number, Outcome, Report, Settings, Values, one_thread, rounded, seconds
from blobex.tracking.tracker import NullTracker
from blobex.training.encoder import EncoderPretrainModule, build_encoder
from blobex.training.fit import fit

PUBLISHED: dict[str, Number] = {"learning_rate": 0.005, "halve_every": 2500}  # METHOD.md, section 3: 150,000 steps
PUBLISHED_STEPS = 55_000  # where the published training was best
BATCH = 64


class _StoppedError(Exception):
    """End of a hopeless training."""


class _LossReporter(NullTracker):
    """Tracker that reports the training's loss."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None and self.report({step: metrics["w_loss"]}):
            raise _StoppedError(step)


class EncoderTask:
    """Task that tunes `encoder_pretrain.training` by trainings of `sweep_encoder.steps` steps.

    `halvings` counts how often the learning rate is halved in the whole training, and so means the same in a short one.
    """

    section = "sweep_encoder"
    directions: Directions = {"w_explained": "maximize", "seconds": "minimize"}

    def __init__(self, params: Params, setup: str, blobgan: BlobGAN) -> None:
        self.params, self.setup, self.blobgan = params, setup, blobgan
        self.options, self.present = params.sweep_encoder, params.encoder_pretrain.training
        self.device = resolve_device(params.run.device)
        self.space: dict[str, Range] = {str(name): entry for name, entry in self.options.space.items()}

    def identity(self) -> dict[str, Any]:
        options = self.params.encoder_pretrain
        return {
            "blobgan": checksum(*self.blobgan.state_dict().values()),
            "encoder": [options.architecture, options.channels, options.mlp_idx, str(self.params.setup(self.setup))],
            "device": self.device.type,
            "batch": self.present.batch_size * self.present.accumulate,
            "training": [self.options.steps, self.options.images, self.params.run.seed],
        }

    def starts(self) -> dict[str, dict[str, Number]]:
        halvings = PUBLISHED_STEPS / PUBLISHED["halve_every"]
        starts: dict[str, dict[str, Number]] = {
            "present": {"learning_rate": self.present.learning_rate, "halvings": self.halvings()},
            "published": {"learning_rate": PUBLISHED["learning_rate"], "halvings": halvings},
        }
        return {name: {key: values[key] for key in self.space} for name, values in starts.items()}

    def settings(self, values: Values) -> Settings:
        return {name: rounded(value) for name, value in values.items()}

    def keys(self, settings: Settings) -> dict[str, Number]:
        training = self._training(settings, self.present.steps)
        names = {"learning_rate": "learning_rate", "halvings": "halve_every"}
        return {f"encoder_pretrain.training.{names[key]}": getattr(training, names[key]) for key in settings}

    def prepare(self) -> None:
        """Do nothing: trials share the generator only."""

    @one_thread()
    def measure(self, settings: Settings, report: Report) -> Outcome:
        start = seconds(self.device)
        module, stopped = self._trained(settings, self.params.run.seed, report)
        duration = seconds(self.device) - start
        explained = explained_by_image(module, self.options.images, self.params.run.seed)
        measures = {"w_explained": float(explained.mean()), "seconds": duration}
        return Outcome(1 - measures["w_explained"], measures, {}, stopped)

    @one_thread()
    def again(self, settings: Settings) -> float:
        """Train from a second seed, and measure on its images."""
        seed = self.params.run.seed + 2
        module, _ = self._trained(settings, seed, _never)
        return 1 - float(explained_by_image(module, self.options.images, seed).mean())

    @one_thread()
    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        """Train from a third seed, and measure on its images."""
        seed = self.params.run.seed + 1

        def measure(settings: Settings) -> tuple[dict[str, float], Samples]:
            module, _ = self._trained(settings, seed, _never)
            explained = explained_by_image(module, self.options.held_out, seed)
            return {"w_explained": float(explained.mean())}, {"w_explained": explained}

        return comparison(self.options.held_out, candidates, measure, self.options.seed)

    def _training(self, settings: Settings, steps: int) -> Training:
        """Return the section of a training of `steps` steps, checked like one of a parameter file."""
        tree = dataclasses.asdict(self.present) | {"steps": steps}
        if "learning_rate" in settings:
            tree["learning_rate"] = settings["learning_rate"]
        halvings = settings.get("halvings", self.halvings())
        tree["halve_every"] = max(1, round(steps / halvings)) if halvings > 0 else 0
        tree["resume"] = tree["resume"] | {"source": "none"}
        return parse(Training, tree, "encoder_pretrain.training")

    def halvings(self) -> float:
        """Return how often the learning rate of the parameters is halved."""
        return self.present.steps / self.present.halve_every if self.present.halve_every else 0.0

    def _trained(self, settings: Settings, seed: int, report: Report) -> tuple[EncoderPretrainModule, int | None]:
        """Train an encoder; return it and the step after which the training was stopped, if it was."""
        training = self._training(settings, self.options.steps)
        encoder = build_encoder(self.params.encoder_pretrain, self.params.setup(self.setup), self.blobgan, seed)
        module = EncoderPretrainModule(encoder, self.blobgan, training, seed, {"setup": self.setup})
        run = dataclasses.replace(self.params.run, devices=1)  # one command trains many networks
        count, stopped = torch.arange(training.batch_size * training.accumulate), None
        with tempfile.TemporaryDirectory() as folder:
            try:
                fit(module, lambda step: (count,), training, run, Path(folder), _LossReporter(report))
            except _StoppedError as error:
                stopped = int(str(error))
        return module.to(self.device), stopped


@torch.no_grad()
def explained_by_image(module: EncoderPretrainModule, count: int, seed: int) -> np.ndarray:
    """Return the share of w's variance explained for each of `count` generated images (count,); its mean is the
    share over all images."""
    module.encoder.eval()
    random = torch.Generator(module.device).manual_seed(seed)
    pairs = [module.generated(min(BATCH, count - start), random) for start in range(0, count, BATCH)]
    w = torch.cat([latent for latent, _ in pairs])
    encoded = torch.cat([module.encode(image) for _, image in pairs])
    error = (encoded - w).square().mean(1) / w.var(0, unbiased=False).mean()
    return (1 - error).double().cpu().numpy()


def _never(losses: Mapping[int, float], late: bool = False, /) -> bool:
    return False
