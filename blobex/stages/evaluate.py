"""Measure the generator and the explanations of a setup: reports/evaluate/<setup>."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex.config.explain import VARIANTS
from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import load_images
from blobex.datasets.images import to_array, to_float, write_png
from blobex.datasets.manifest import manifest_path
from blobex.decisions.load import load
from blobex.explain.measures import diversity, explanation_values, split_distance, with_intervals
from blobex.explain.results_folder import read_results
from blobex.metrics.feature_sets import precision_recall
from blobex.metrics.frechet import frechet_distance, frechet_name, gaussian, load_features, load_statistics
from blobex.networks.blobgan import load_blobgan, sample_images
from blobex.networks.parser import load_parser
from blobex.networks.perceptual import load_perceptual, perceptual_name
from blobex.stages import common
from blobex.tracking import runs as tracking

SAMPLES = 32  # images of the sample grid
COMPARED = 10_000  # images of either set for precision and recall, which compare each with each


def main(params: Params, setup: str) -> None:
    """Measure generated images, with held-out images for comparison, and the explanations."""
    folder = common.REPORTS / "evaluate" / setup
    with tracking.run(params, "evaluate", setup, manifest_path(params.data.root)) as tracker:
        measures = generator_measures(params, setup, folder) | explained_measures(params, setup)
        common.write_metrics(folder, measures, tracker)
        tracker.log_artifact(folder / "samples.png")


def generator_measures(params: Params, setup: str, folder: Path) -> dict[str, float]:
    """Return Frechet distance, precision and recall of generated images, and the distance of held-out images."""
    options, network, device = params.evaluate, params.data.frechet, resolve_device(params.run.device)
    features = load_features(network, common.MODELS / "parser" / setup, device, Path(params.data.external))
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup).to(device)
    real, name = load_statistics(common.fid_stats(params, setup)), frechet_name(network)
    held_out = load_images(params, setup, "val").split(options.batch_size)
    generate = partial(sample_images, blobgan, batch_size=options.batch_size, seed=params.run.seed)
    with torch.no_grad():
        real_features, generated_features = (
            torch.cat([features(batch).cpu() for batch in batches])
            for batches in (held_out, generate(options.generated_images))
        )
    scores = precision_recall(real_features[:COMPARED], generated_features[:COMPARED])
    samples = to_array(make_grid(to_float(next(generate(SAMPLES))[:SAMPLES]), nrow=8))
    write_png(folder / "samples.png", samples, colours=256)
    return {
        name: frechet_distance(real, gaussian(generated_features, network, setup)),
        f"{name}_real": frechet_distance(real, gaussian(real_features, network, setup)),
        "precision": scores.precision,
        "recall": scores.recall,
    }


def explained_measures(params: Params, setup: str) -> dict[str, float]:
    """Return the measures of the explanations of each variant; those of `basic` have no prefix."""
    size, device, external = params.setup(setup), resolve_device(params.run.device), Path(params.data.external)
    decision = load(params.explain.decision, size, device, common.MODELS, setup)
    parser_folder = common.MODELS / "parser" / setup
    perceptual = load_perceptual(params.data.perceptual, parser_folder, external).to(device)
    distance, parser = perceptual_name(params.data.perceptual), load_parser(parser_folder).to(device)

    def features(images: Tensor) -> Tensor:
        return parser.pooled_features(images.to(device))

    measures: dict[str, float] = {}
    for variant in VARIANTS:
        records = read_results(common.explain_results(setup, variant))
        values = explanation_values(records, distance, decision, features, "cosine_parser")
        values |= diversity(records, lambda a, b: perceptual.distance(a.to(device), b.to(device)).cpu())
        of_variant = with_intervals(values, params.run.seed)
        split = split_distance(records, features, params.run.seed)
        of_variant |= {} if math.isnan(split) else {f"split_{frechet_name('parser')}": split}
        prefix = "" if variant == "basic" else f"{variant}_"
        measures |= {f"{prefix}{name}": value for name, value in of_variant.items()}
    return measures


if __name__ == "__main__":
    common.run_stage(main, "setup")
