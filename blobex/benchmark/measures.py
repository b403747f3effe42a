"""Measures of the speed benchmark: the search beside the published one, and the rate of everything else."""

from __future__ import annotations

from pathlib import Path

import torch

from blobex.benchmark.machine import peak_flops
from blobex.benchmark.rates import feature_rate, scene_rate, training_rates
from blobex.benchmark.search_cost import search_cost, search_flops
from blobex.config.params import Params
from blobex.core.device import resolve_precision
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.images import to_float
from blobex.explain.explainer import Explainer
from blobex.metrics.feature_networks import load_features


def search_measures(params: Params, setup: str, models: Path, device: torch.device) -> dict[str, float]:
    """Measure our search on `bench.images` images, and both searches on the first `bench.published_images` of them."""
    options, attributes = params.bench, params.explain.attributes
    queries = to_float(load_image_files(params, setup, explained_paths(params), "bench", options.images).images)
    first = queries[: options.published_images]
    slow = Explainer.load(setup, models, params.published())
    published = search_cost(slow, first, attributes)  # before ours, which changes the allocator
    fast = Explainer.load(setup, models, params)
    search_cost(fast, queries[:4], attributes[:1])  # the first call includes what is set up once
    few = search_cost(fast, first, attributes)
    many = search_cost(fast, queries, attributes)
    precision = getattr(torch, resolve_precision(params.run.precision, device))
    peak, work = peak_flops(device, precision), search_flops(fast, first, attributes)
    return {
        **{f"fast_{name}": value for name, value in few.measures().items()},
        **{f"published_{name}": value for name, value in published.measures().items()},
        "fast_seconds_per_picture_of_many": many.seconds_per_image,
        "ratio": published.seconds_per_image / few.seconds_per_image,
        "ratio_of_many": published.seconds_per_image / many.seconds_per_image,
        "gigaflop_per_picture": work / len(first) / 1e9,
        "peak_gigaflops": peak / 1e9,
        "peak_gigaflops_float32": peak_flops(device, torch.float32) / 1e9,
        "seconds_per_picture_at_peak": work / len(first) / peak,
        "share_of_peak": work / len(first) / peak / few.seconds_per_image,
    }


def other_rates(params: Params, setup: str, models: Path, device: torch.device) -> dict[str, float]:
    """Measure images per second of each training, of feature networks and of rendering scenes."""
    size = params.setup(setup)
    features = load_features(params.data.frechet, models / "parser" / setup, device, Path(params.data.external))
    training = training_rates(params, setup, params.bench.training_steps)
    return {
        **{f"{name}_training_images_per_second": rate for name, rate in training.items()},
        "features_per_second": feature_rate(features, size.height, size.width, params.fid_stats.batch_size, device),
        "scenes_per_second": scene_rate(size.height),
    }
