"""Train the BlobGAN of a setup: models/blobgan/<setup>."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex import tracking
from blobex.config import Params
from blobex.datasets.datamodule import batch_indices, checksum, load_images
from blobex.datasets.images import to_array
from blobex.device import resolve_device
from blobex.metrics.frechet import frechet_distance, frechet_name, load_features, load_statistics, statistics
from blobex.networks import weights
from blobex.networks.blobgan import sample_pictures
from blobex.stages import common
from blobex.training.checkpoints import choose, mark_finished
from blobex.training.coarse import coarse_params, grow, halved
from blobex.training.fit import fingerprint, fit, resumed_run_id
from blobex.training.gan import EveryNSteps, GanModule
from blobex.training.tracker import NullTracker, Tracker

SAMPLES = 16  # pictures of the sample grid


def main(params: Params, setup: str) -> None:
    """Train on the training pictures, log sample grids, save the moving average."""
    folder = common.MODELS / "blobgan" / setup
    training = params.blobgan.training
    module = GanModule(params.blobgan, params.setup(setup), params.run.seed)
    images = load_images(params, setup, "train")
    module.depends_on(data=checksum(images))

    def batches(step: int) -> tuple[torch.Tensor]:
        chosen = batch_indices(step, len(images), training.batch_size * training.accumulate, params.run.seed)
        return (images[chosen],)

    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    begun = choose(training, common.checkpoints(folder), fingerprint(module, training)) is not None
    if params.blobgan.coarse_steps and not begun:
        grow(module, coarse_module(params, setup, images, common.checkpoints(folder) / "coarse"))
    with tracking.run(params, "blobgan", setup, common.data_root(params), run_id) as tracker:
        samples = EveryNSteps(params.blobgan.sample_every_n_steps, partial(log_samples, tracker))
        watchers = [samples, *watch_distance(params, setup, tracker)]
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker, watchers)
        model = module.average
        model.compute_mean_w(params.blobgan.mean_latent_samples, torch.Generator().manual_seed(params.run.seed))
        weights.save(folder, "blobgan", {"setup": setup, **model.config()}, model)
        common.write_metrics(
            folder, {"images_seen": training.steps * training.batch_size * training.accumulate}, tracker
        )
    mark_finished(common.checkpoints(folder), True)


def coarse_module(params: Params, setup: str, images: Tensor, folder: Path) -> GanModule:
    """The GAN of half the height, trained on the same pictures (N,3,height,width), uint8."""
    options, size = coarse_params(params.blobgan, params.setup(setup))
    module, small = GanModule(options, size, params.run.seed), halved(images)
    module.depends_on(data=checksum(images))

    def batches(step: int) -> tuple[Tensor]:
        batch = options.training.batch_size * options.training.accumulate
        return (small[batch_indices(step, len(small), batch, params.run.seed)],)

    fit(module, batches, options.training, params.run, folder, NullTracker())
    return module


def log_samples(tracker: Tracker, step: int, module: Any) -> None:
    """A grid of the same latents at every step."""
    z = torch.randn(SAMPLES, module.average.z_dim, generator=torch.Generator().manual_seed(0)).to(module.device)
    with torch.no_grad():
        images = module.average.render(module.average.sample(z))
    tracker.log_image("samples", to_array(make_grid(images, nrow=4)), step)


def watch_distance(params: Params, setup: str, tracker: Tracker) -> list[EveryNSteps]:
    """Log the Frechet distance of the moving average to real pictures every `fid_every_n_steps` steps, if not 0.

    BlobexError if the stages parser and fid_stats have not run before.
    """
    options, network = params.blobgan, params.data.frechet
    if not options.fid_every_n_steps:
        return []
    name, real = frechet_name(network), load_statistics(common.fid_stats(params, setup))
    device, external = resolve_device(params.run.device), Path(params.data.external)
    features = load_features(network, common.MODELS / "parser" / setup, device, external)

    def measure(step: int, module: Any) -> None:
        pictures = sample_pictures(module.average, options.fid_images, options.training.batch_size, params.run.seed)
        module.scores[name] = frechet_distance(real, statistics(pictures, features, network, setup))
        tracker.log_metrics({name: module.scores[name]}, step)

    return [EveryNSteps(options.fid_every_n_steps, measure)]


if __name__ == "__main__":
    common.run_stage(main, "setup")
