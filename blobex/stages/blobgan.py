"""Train the BlobGAN of a setup: models/blobgan/<setup>."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import checksum, load_images
from blobex.datasets.images import to_array
from blobex.datasets.manifest import manifest_path
from blobex.layout.assign import assign_segments
from blobex.metrics.frechet import frechet_distance, frechet_name, load_features, load_statistics, statistics
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, sample_images
from blobex.networks.parser import load_parser
from blobex.networks.perceptual import load_perceptual
from blobex.networks.segment_encoder import load_pretrained
from blobex.perception.segment_reader import parse_segments
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.tracking.tracker import Tracker
from blobex.training.blobgan_pretrain import painting_loss
from blobex.training.checkpoints import mark_finished
from blobex.training.fit import EveryNSteps, fit, resumed_run_id
from blobex.training.gan import GanModule
from blobex.training.step_module import Batch, sample_batches

SAMPLES = 16  # images of the sample grid


def main(params: Params, setup: str) -> None:
    """Train on the training images, log sample grids and save the moving average."""
    folder = common.MODELS / "blobgan" / setup
    training = params.blobgan.training
    images = load_images(params, setup, "train")
    module, data = build(params, setup, images)
    module.depends_on(data=checksum(images))
    batches = sample_batches(data, len(images), training, params.run.seed)
    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "blobgan", setup, manifest_path(params.data.root), run_id) as tracker:
        samples = EveryNSteps(params.blobgan.sample_every_n_steps, partial(log_samples, tracker))
        watchers = [samples, *watch_distance(params, setup, tracker)]
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker, watchers)
        model = module.average
        weights.shorten(model)
        model.compute_mean_w(params.blobgan.mean_latent_samples, torch.Generator().manual_seed(params.run.seed))
        weights.save(folder, "blobgan", {"setup": setup, "start": params.blobgan.start, **model.config()}, model)
        images_seen = training.steps * training.batch_size * training.accumulate
        common.write_metrics(folder, {"images_seen": images_seen}, tracker)
    mark_finished(common.checkpoints(folder), True)


def build(params: Params, setup: str, images: Tensor) -> tuple[GanModule, Batch]:
    """Build the initialised GAN and the tensors of its batches: images and, for painting, ellipses of their blobs."""
    size, seed = params.setup(setup), params.run.seed
    if params.blobgan.start == "scratch":
        if params.blobgan.network.layout == "flow":
            raise BlobexError("from scratch no flow can be fitted: set blobgan.network.layout to mlp")
        return GanModule(params.blobgan, size, seed), (images,)
    pretrained = load_pretrained(common.MODELS / "blobgan_pretrain" / setup)
    if not params.blobgan.painting_weight:
        module = GanModule(params.blobgan, size, seed)
        module.start_from(pretrained.blobgan)
        return module, (images,)
    device, folder = resolve_device(params.run.device), common.MODELS / "parser" / setup
    perceptual = load_perceptual(params.data.perceptual, folder, Path(params.data.external)).to(device)
    encoder = pretrained.encoder.to(device)

    def painting(model: BlobGAN, batch: Batch, random: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        return painting_loss(model, encoder, perceptual, params.blobgan_pretrain, batch, random)

    module = GanModule(params.blobgan, size, seed, painting)
    module.depends_on(perceptual=checksum(*perceptual.state_dict().values()))
    module.start_from(pretrained.blobgan)
    segments = parse_segments(load_parser(folder), images, device)
    ellipses = assign_segments(segments, pretrained.slots, encoder.anchors, encoder.canvas)
    return module, (images, *ellipses.tensors()[:4])


def log_samples(tracker: Tracker, step: int, module: Any) -> None:
    """Track a grid of images of fixed latents."""
    z = torch.randn(SAMPLES, module.average.z_dim, generator=torch.Generator().manual_seed(0)).to(module.device)
    with torch.no_grad():
        images = module.average.render(module.average.sample(z))
    tracker.log_image("samples", to_array(make_grid(images, nrow=4)), step)


def watch_distance(params: Params, setup: str, tracker: Tracker) -> list[EveryNSteps]:
    """Track the Frechet distance of the moving average to real images every `fid_every_n_steps` steps, if not 0.

    Raises BlobexError if the stages parser and fid_stats have not run before.
    """
    options, network = params.blobgan, params.data.frechet
    if not options.fid_every_n_steps:
        return []
    name, real = frechet_name(network), load_statistics(common.fid_stats(params, setup))
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
