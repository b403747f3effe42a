"""Measure how fast a setup's networks and searches run: reports/bench/<setup>. Run by `make bench`, never by DVC."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from blobex.benchmark.explaining import search_cost, search_flops
from blobex.benchmark.machine import peak_flops
from blobex.benchmark.table import comparison, rows
from blobex.benchmark.training import feature_rate, scene_rate, training_rates
from blobex.config.params import Params
from blobex.core.device import resolve_device, resolve_precision
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.images import to_float
from blobex.datasets.manifest import manifest_path
from blobex.explain.explainer import Explainer
from blobex.metrics.feature_networks import load_features
from blobex.stages import common
from blobex.tracking import runs as tracking


def main(params: Params, setup: str) -> None:
    """One table: the search against the published way on the same pictures, then every network's speed."""
    folder, options, device = common.REPORTS / "bench" / setup, params.bench, resolve_device(params.run.device)
    with tracking.run(params, "bench", setup, manifest_path(params.data.root)) as tracker:
        measures = search_measures(params, setup, device)
        rates = other_rates(params, setup, device)
        folder.mkdir(parents=True, exist_ok=True)
        common.write_text(folder / "metrics.json", json.dumps(measures | rates, indent=2) + "\n")
        table = comparison(measures, options.published_images) + rows(rates)
        common.write_text(folder / "table.txt", table)
        print(table)
        tracker.log_metrics(measures | rates)
        tracker.log_artifact(folder / "table.txt")


def search_measures(params: Params, setup: str, device: torch.device) -> dict[str, float]:
    """Ours on `bench.images` pictures, and both ways on the first `bench.published_images` of them."""
    options, attributes = params.bench, params.explain.attributes
    pictures = load_image_files(params, setup, explained_paths(params), "bench", options.images)
    queries = to_float(pictures.images)
    some = queries[: options.published_images]
    slow = Explainer.load(setup, common.MODELS, params.published())
    published = search_cost(slow, some, attributes)  # first: ours changes the allocator
    fast = Explainer.load(setup, common.MODELS, params)
    search_cost(fast, queries[:4], attributes[:1])  # the first call pays for what is set up once
    few = search_cost(fast, some, attributes)
    many = search_cost(fast, queries, attributes)
    precision = getattr(torch, resolve_precision(params.run.precision, device))
    peak, work = peak_flops(device, precision), search_flops(fast, some, attributes)
    return {
        **{f"fast_{name}": value for name, value in few.measures().items()},
        **{f"published_{name}": value for name, value in published.measures().items()},
        "fast_seconds_per_picture_of_many": many.seconds_per_picture,
        "ratio": published.seconds_per_picture / few.seconds_per_picture,
        "ratio_of_many": published.seconds_per_picture / many.seconds_per_picture,
        "gigaflop_per_picture": work / len(some) / 1e9,
        "peak_gigaflops": peak / 1e9,
        "peak_gigaflops_float32": peak_flops(device, torch.float32) / 1e9,
        "seconds_per_picture_at_peak": work / len(some) / peak,
        "share_of_peak": work / len(some) / peak / few.seconds_per_picture,
    }


def other_rates(params: Params, setup: str, device: torch.device) -> dict[str, float]:
    """Pictures per second of training, features and scenes."""
    size = params.setup(setup)
    external = Path(params.data.external)
    features = load_features(params.data.frechet, common.MODELS / "parser" / setup, device, external)
    training = training_rates(params, setup, params.bench.training_steps)
    return {
        **{f"{name}_training_images_per_second": rate for name, rate in training.items()},
        "features_per_second": feature_rate(features, size.height, size.width, params.fid_stats.batch_size, device),
        "scenes_per_second": scene_rate(size.height),
    }


if __name__ == "__main__":
    common.run_stage(main, "setup")
