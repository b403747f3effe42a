"""Compute mean and covariance of the features of real images: data/fid_stats/<setup>/<name>.npz."""

from __future__ import annotations

from pathlib import Path

import torch

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import image_paths, load_image_files
from blobex.datasets.decoding import DecodedImages, write_report
from blobex.datasets.images import list_images
from blobex.datasets.manifest import manifest_path
from blobex.metrics.frechet import load_features, save_statistics, statistics
from blobex.stages import common
from blobex.tracking import runs as tracking


def main(params: Params, setup: str) -> None:
    """Compute the statistics of `fid_stats.images` images of `fid_stats.path`, or of the training images."""
    options, network = params.fid_stats, params.data.frechet
    device, external = resolve_device(params.run.device), Path(params.data.external)
    features = load_features(network, common.MODELS / "parser" / setup, device, external)
    source = Path(options.path) if options.path else manifest_path(params.data.root)
    with tracking.run(params, "fid_stats", setup, source) as tracker:
        images = real_images(params, setup)
        gaussian = statistics(images.images.split(options.batch_size), features, network, setup)
        path = common.fid_stats(params, setup)
        save_statistics(path, gaussian)
        print(write_report(path.with_name("pictures.json"), images))
        tracker.log_metrics({"images": len(images.images), "skipped": len(images.skipped)})
        for name in (path.name, "pictures.json"):
            tracker.log_artifact(path.with_name(name))


def real_images(params: Params, setup: str) -> DecodedImages:
    """Load the first `fid_stats.images` readable images, in sorted or shuffled order."""
    options = params.fid_stats
    paths = list_images(options.path) if options.path else image_paths(params, "train")
    if options.shuffle and options.images < len(paths):
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(params.run.seed))
        paths = [paths[index] for index in order]
    part = f"fid_stats {Path(options.path).absolute()}" if options.path else "fid_stats"
    skip = True if options.path else None
    return load_image_files(params, setup, paths, part, options.images, skip)


if __name__ == "__main__":
    common.run_stage(main, "setup")
