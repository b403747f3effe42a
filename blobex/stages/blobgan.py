"""Train the BlobGAN of a setup: models/blobgan/<setup>."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex.config.params import Params
from blobex.config.training import Training
from blobex.core.device import resolve_device
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import checksum, load_images
from blobex.datasets.images import to_array
from blobex.datasets.manifest import manifest_path
from blobex.metrics.frechet import frechet_distance, frechet_name, load_features, load_statistics, statistics
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, sample_images
from blobex.networks.segment_encoder import KIND, load_pretrained, load_pretrained_blobgan
from blobex.stages import common
from blobex.stages.painting import load_painting, load_painting_distance
from blobex.tracking import runs as tracking
from blobex.tracking.tracker import Tracker
from blobex.training.checkpoints import mark_finished
from blobex.training.fit import EveryNSteps, fit, resumed_run_id
from blobex.training.gan import GanModule, Painting
from blobex.training.painting import painting_loss
from blobex.training.painting_data import PaintingData
from blobex.training.step_module import Batch, sample_batches

SAMPLES = 16  # images of the sample grid


def main(params: Params, setup: str) -> None:
    """Train on the training images, log sample grids and save the moving average."""
    folder = common.MODELS / "blobgan" / setup
    if not params.blobgan.training.steps:
        keep_pretrained(params, setup, folder)
        return
    training, device = params.blobgan.training, resolve_device(params.run.device)
    data = load_data(params, setup, device)
    module = build(params, setup, data, device)
    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "blobgan", setup, manifest_path(params.data.root), run_id) as tracker:
        samples = EveryNSteps(
            params.blobgan.sample_every_n_steps, lambda step, module: log_samples(tracker, step, module.average)
        )
        watchers = [samples, *watch_distance(params, setup, tracker)]
        fit(
            module,
            data.batches(training, params.run.seed, device),
            training,
            params.run,
            common.checkpoints(folder),
            tracker,
            watchers,
        )
        model = module.average
        weights.shorten(model)
        model.compute_mean_w(params.blobgan.mean_latent_samples, torch.Generator().manual_seed(params.run.seed))
        save(params, setup, folder, model, tracker)
    mark_finished(common.checkpoints(folder), True)


def keep_pretrained(params: Params, setup: str, folder: Path) -> None:
    """Save the pretrained BlobGAN as the trained one, if there are no adversarial steps."""
    if params.blobgan.start != "pretrained":
        raise BlobexError("from scratch the BlobGAN needs adversarial steps: set blobgan.training.steps to 1 or more")
    with tracking.run(params, "blobgan", setup, manifest_path(params.data.root), None) as tracker:
        model = load_pretrained_blobgan(common.MODELS / KIND / setup)
        log_samples(tracker, 0, model)
        save(params, setup, folder, model, tracker)


def save(params: Params, setup: str, folder: Path, model: BlobGAN, tracker: Tracker) -> None:
    """Save the generator, its config and metrics."""
    training = params.blobgan.training
    weights.save(folder, "blobgan", {"setup": setup, **model.config(), "start": params.blobgan.start}, model)
    images_seen = training.steps * training.batch_size * training.accumulate
    common.write_metrics(folder, {"images_seen": images_seen}, tracker)


@dataclass(frozen=True)
class _Images:
    """Training images without blobs."""

    images: Tensor

    def batches(self, training: Training, seed: int, device: torch.device) -> Callable[[int], Batch]:
        return sample_batches((self.images,), len(self.images), training, seed, device)

    def checksum(self) -> int:
        return checksum(self.images)


def load_data(params: Params, setup: str, device: torch.device) -> PaintingData | _Images:
    """Load the training images and, for the painting loss, their blobs."""
    if params.blobgan.start == "scratch" or not params.blobgan.painting_weight:
        return _Images(load_images(params, setup, "train"))
    encoder = load_pretrained(common.MODELS / KIND / setup).encoder
    return load_painting(params, setup, device, encoder.canvas, encoder.anchors)[0]


def build(params: Params, setup: str, data: PaintingData | _Images, device: torch.device) -> GanModule:
    """Build the initialised GAN."""
    size, seed = params.setup(setup), params.run.seed
    painting: Painting | None = None
    if params.blobgan.start == "scratch" and params.blobgan.network.layout == "flow":
        raise BlobexError("from scratch no flow can be fitted: set blobgan.network.layout to mlp")
    folder = common.MODELS / KIND / setup if params.blobgan.start == "pretrained" else None
    perceptual = None
    if folder is not None and params.blobgan.painting_weight:
        perceptual, encoder = load_painting_distance(params, setup, device), load_pretrained(folder).encoder.to(device)

        def painting(model: BlobGAN, batch: Batch, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            return painting_loss(model, encoder, perceptual, params.blobgan_pretrain, batch, random)

    module = GanModule(params.blobgan, size, seed, painting)
    module.depends_on(data=data.checksum())
    if perceptual is not None:
        module.depends_on(perceptual=checksum(*perceptual.state_dict().values()))
    if folder is not None:
        module.start_from(load_pretrained_blobgan(folder))
    return module


def log_samples(tracker: Tracker, step: int, model: BlobGAN) -> None:
    """Track a grid of images of fixed latents."""
    z = torch.randn(SAMPLES, model.z_dim, generator=torch.Generator().manual_seed(0)).to(model.mean_w.device)
    with torch.no_grad():
        images = model.render(model.sample(z))
    tracker.log_image("samples", to_array(make_grid(images, nrow=4)), step)


def watch_distance(params: Params, setup: str, tracker: Tracker) -> list[EveryNSteps]:
    """Track the Frechet distance of the moving average to real images every `fid_every_n_steps` steps, if not 0.

    Raises BlobexError if the stages parser and fid_stats have not run before.
    """
    options, network = params.blobgan, params.data.frechet
    if not options.fid_every_n_steps:
        return []
    name, real = frechet_name(network), load_statistics(common.fid_stats(params, setup), setup)
    device, external = resolve_device(params.run.device), Path(params.data.external)
    features = load_features(network, common.MODELS / "parser" / setup, device, external)

    def measure(step: int, module: Any) -> None:
        images = sample_images(module.average, options.fid_images, options.training.batch_size, params.run.seed)
        measures = {name: frechet_distance(real, statistics(images, features, network, setup))}
        module.score(measures)
        tracker.log_metrics(measures, step)

    return [EveryNSteps(options.fid_every_n_steps, measure)]


if __name__ == "__main__":
    common.run_stage(main, "setup")
