"""Measures of the speed benchmark, and their table: the search beside the published one, and all other rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blobex.benchmark.machine import peak_flops, timed
from blobex.benchmark.rates import feature_rate, scene_rate, training_rates
from blobex.config.params import Params
from blobex.core.device import resolve_precision
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.verify import Counterfactuals
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.images import to_float
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import BlobLayout
from blobex.metrics.frechet import load_features
from blobex.optim.network_callables import watched

COMPARED = (
    *("seconds_per_picture", "invert_seconds_per_picture", "explain_seconds_per_picture"),
    *("invert_renderings_per_picture", "explain_renderings_per_picture", "peak_gigabytes"),
    *("reconstruction_perceptual", "reconstruction_l2", "reconstruction_agrees"),
    *("flip_rate", "flipped_by_change", "perceptual", "l2", "proximity"),
)


@dataclass(frozen=True)
class SearchCost:
    """The cost of explaining images, and the explanations."""

    images: int
    invert_seconds: float
    explain_seconds: float
    invert_renderings: int  # images rendered by the generator
    explain_renderings: int
    peak_bytes: int
    inversion: Inversion
    counterfactuals: Counterfactuals

    @property
    def seconds_per_image(self) -> float:
        return (self.invert_seconds + self.explain_seconds) / self.images

    def measures(self) -> dict[str, float]:
        """Return the measures of a report; distances and rates are means over all problems."""
        found = self.counterfactuals
        means = {
            "reconstruction_perceptual": self.inversion.perceptual,
            "reconstruction_l2": self.inversion.l2,
            "reconstruction_agrees": found.reconstruction_agrees,
            "flip_rate": found.flipped,
            "flipped_by_change": found.flipped & found.reconstruction_agrees,
            "perceptual": found.perceptual,
            "l2": found.l2,
            "proximity": found.proximity,
        }
        return {
            "seconds_per_picture": self.seconds_per_image,
            "invert_seconds_per_picture": self.invert_seconds / self.images,
            "explain_seconds_per_picture": self.explain_seconds / self.images,
            "invert_renderings_per_picture": self.invert_renderings / self.images,
            "explain_renderings_per_picture": self.explain_renderings / self.images,
            "peak_gigabytes": self.peak_bytes / 2**30,
            **{name: values.double().mean().item() for name, values in means.items()},
        }


def search_cost(explainer: Explainer, queries: Tensor, attributes: Sequence[str]) -> SearchCost:
    """Invert images (N,3,height,width) and explain every attribute of each as a full rendering."""
    explainer, counts = _with_counter(explainer)
    inversions, counterfactuals = list[Inversion](), list[Counterfactuals]()
    inverting = timed(lambda: inversions.append(explainer.invert(queries)), explainer.device)
    layout, renderings = inversions[0].layout, sum(counts)
    plan = explainer.plan(Request(attributes=attributes, few=False, compose="full"))
    masks = build_masks(layout.blobs, plan.variant.keys, plan.blobs, plan.variant.background)

    def explain() -> None:
        questions = explainer.questions(explainer.questioned(queries, layout), plan)
        counterfactuals.append(explainer.search(queries.to(explainer.device), layout, questions, masks, plan))

    explaining = timed(explain, explainer.device)
    return SearchCost(
        images=len(queries),
        invert_seconds=inverting.seconds,
        explain_seconds=explaining.seconds,
        invert_renderings=renderings,
        explain_renderings=sum(counts) - renderings,
        peak_bytes=max(inverting.peak_bytes, explaining.peak_bytes),
        inversion=inversions[0],
        counterfactuals=counterfactuals[0],
    )


def search_flops(explainer: Explainer, queries: Tensor, attributes: Sequence[str]) -> float:
    """Count the floating-point operations of explaining images: a lower bound of the cost.

    Counted are convolutions and matrix products, forward and backward, as by PyTorch's FlopCounterMode.
    """
    with FlopCounterMode(display=False) as counter:
        search_cost(explainer, queries, attributes)
    return float(counter.get_total_flops())


def _with_counter(explainer: Explainer) -> tuple[Explainer, list[int]]:
    """Return an explainer that appends the number of images of each rendering to a list, and the list."""
    counts = list[int]()

    def count(layout: BlobLayout, images: Tensor) -> None:
        counts.append(len(images))

    quick, exact = (watched(networks, count) for networks in (explainer.quick, explainer.exact))
    return dataclasses.replace(explainer, quick=quick, exact=exact), counts


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


def comparison(measures: dict[str, float], images: int) -> str:
    """Format the measures of both searches on `images` images side by side, then the other measures."""
    lines = [f"{f'{images} pictures':34}{'fast':>12}{'published':>12}{'published / fast':>18}"]
    for name in COMPARED:
        fast, published = measures[f"fast_{name}"], measures[f"published_{name}"]
        ratio = f"{published / fast:.2f}" if fast else "-"
        lines.append(f"{name:34}{fast:>12.4f}{published:>12.4f}{ratio:>18}")
    compared = {f"{search}_{name}" for search in ("fast", "published") for name in COMPARED}
    others = {name: value for name, value in measures.items() if name not in compared and "per_second" not in name}
    return "\n".join(lines) + "\n" + rows(others)


def rows(measures: dict[str, float]) -> str:
    """Format one line per measure."""
    return "".join(f"{name:46}{value:>12.4f}\n" for name, value in measures.items())
