"""Measures of the speed benchmark, and their table: the search beside the published one, and all other rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blobex.benchmark.machine import Cost, peak_flops, timed
from blobex.benchmark.rates import feature_rate, scene_rate, training_rates
from blobex.config.params import Params
from blobex.core.device import resolve_precision
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.images import to_float
from blobex.explain.believable import Decide, flip_values
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import InvertedImages
from blobex.explain.request import Request
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import BlobLayout
from blobex.metrics.counterfactuals import explanation_measures
from blobex.metrics.frechet import load_features
from blobex.optim.network_callables import watched

COMPARED = (
    *("seconds_per_picture", "invert_seconds_per_picture", "explain_seconds_per_picture"),
    *("processor_seconds_per_picture", "peak_gigabytes"),
    *("invert_renderings_per_picture", "explain_renderings_per_picture"),
    *("flip_rate", "flipped_by_change", "reconstruction_agrees", "witness_flip"),
    *("perceptual", "l2", "proximity", "reconstruction_perceptual", "reconstruction_l2"),
)


@dataclass(frozen=True)
class SearchCost:
    """The cost of explaining images, and the explanations."""

    images: int
    inverting: Cost
    explaining: Cost
    invert_renderings: int  # images rendered by the generator
    explain_renderings: int
    explanations: list[Explanation]

    @property
    def seconds_per_image(self) -> float:
        return (self.inverting.seconds + self.explaining.seconds) / self.images

    def measures(self, witness: Decide) -> dict[str, float]:
        """Return the measures of a report; `witness_flip` is the share of the flips that a witness shares."""
        shared = flip_values(self.explanations, witness).get("witness_flip")
        of_explanations = explanation_measures([record.row() for record in self.explanations], "perceptual")
        processor = self.inverting.processor_seconds + self.explaining.processor_seconds
        return {
            "seconds_per_picture": self.seconds_per_image,
            "invert_seconds_per_picture": self.inverting.seconds / self.images,
            "explain_seconds_per_picture": self.explaining.seconds / self.images,
            "processor_seconds_per_picture": processor / self.images,
            "peak_gigabytes": max(self.inverting.peak_bytes, self.explaining.peak_bytes) / 2**30,
            "invert_renderings_per_picture": self.invert_renderings / self.images,
            "explain_renderings_per_picture": self.explain_renderings / self.images,
            "witness_flip": fmean(shared.values) if shared else 0.0,
            **{name: of_explanations[name] for name in COMPARED if name in of_explanations},
        }


def search_cost(explainer: Explainer, queries: Tensor, attributes: Sequence[str]) -> SearchCost:
    """Invert images (N,3,height,width) and explain every attribute of each, as `blobex explain` does by default."""
    explainer, counts = _with_counter(explainer)
    inversions, explanations = list[Inversion](), list[Explanation]()
    inverting = timed(lambda: inversions.append(explainer.invert(queries)), explainer.device)
    renderings, plan = sum(counts), explainer.plan(Request(attributes=attributes))
    batch = InvertedImages([str(number) for number in range(len(queries))], queries, inversions[0])
    explaining = timed(lambda: explanations.extend(explainer.explain_batch(batch, plan)[0]), explainer.device)
    return SearchCost(len(queries), inverting, explaining, renderings, sum(counts) - renderings, explanations)


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


def search_measures(
    params: Params, setup: str, models: Path, device: torch.device, witness: Callable[[], Decide]
) -> dict[str, float]:
    """Measure our search on `bench.images` images, and both searches on the first `bench.published_images` of them.

    `witness` loads a decision witness, after the searches.
    """
    options, attributes = params.bench, params.explain.attributes
    queries = to_float(load_image_files(params, setup, explained_paths(params), "bench", options.images).images)
    first = queries[: options.published_images]
    slow = Explainer.load(setup, models, params.published())
    published = search_cost(slow, first, attributes)  # before ours, which changes the allocator
    fast = Explainer.load(setup, models, params)
    search_cost(fast, queries[:4], attributes[:1])  # the first call includes what is set up once
    few = search_cost(fast, first, attributes)
    many = search_cost(fast, queries, attributes)
    witness_decides = witness()
    precision = getattr(torch, resolve_precision(params.run.precision, device))
    peak, work = peak_flops(device, precision), search_flops(fast, first, attributes)
    return {
        **{f"fast_{name}": value for name, value in few.measures(witness_decides).items()},
        **{f"published_{name}": value for name, value in published.measures(witness_decides).items()},
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
