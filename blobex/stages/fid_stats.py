"""Mean and covariance of real pictures' features: data/fid_stats/<setup>/<name>.npz."""

from __future__ import annotations

from pathlib import Path

import torch

from blobex import tracking
from blobex.config import Params
from blobex.datasets.datamodule import decode, image_paths
from blobex.datasets.images import list_images
from blobex.device import resolve_device
from blobex.metrics.frechet import load_features, save_statistics, statistics
from blobex.stages import common


def main(params: Params, setup: str) -> None:
    """Take the statistics of `fid_stats.images` pictures of `fid_stats.path`, or of the training pictures."""
    options, network = params.fid_stats, params.data.frechet
    paths = list_images(Path(options.path)) if options.path else image_paths(params, "train")
    if options.shuffle:
        order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(params.run.seed))
        paths = [paths[index] for index in order]
    features = load_features(network, common.MODELS / "parser" / setup, resolve_device(params.run.device))
    with tracking.run(
        params, "fid_stats", setup, Path(options.path) if options.path else common.data_root(params)
    ) as tracker:
        images = decode(paths[: options.images], params.setup(setup))
        found = statistics(images.split(options.batch_size), features, network, setup)
        path = common.fid_stats(params, setup)
        save_statistics(path, found)
        tracker.log_metrics({"images": found.images})
        tracker.log_artifact(path)


if __name__ == "__main__":
    common.run_stage(main, "setup")
