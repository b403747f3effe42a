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
from blobex.datasets.images import to_array, to_float, to_uint8, write_png
from blobex.datasets.manifest import manifest_path
from blobex.decisions.load import load
from blobex.explain.believable import Views, believable_measures
from blobex.explain.measures import Features, diversity, explanation_values, similarity_name, split_distance
from blobex.explain.results_folder import read_results
from blobex.inversion.inversion import load_inversion
from blobex.metrics.feature_sets import drawn_distances, precision_recall, split_distances
from blobex.metrics.frechet import frechet_distance, frechet_name, gaussian, load_features, load_statistics
from blobex.metrics.interval import flat, flat_intervals, interval, spread
from blobex.metrics.witness_networks import Witnesses, load_witnesses, reader
from blobex.networks.blobgan import BlobGAN, load_blobgan, sample_images
from blobex.networks.external import require
from blobex.networks.parser import load_parser
from blobex.networks.perceptual import load_perceptual, perceptual_name
from blobex.networks.segment_encoder import load_pretrained, load_pretrained_blobgan
from blobex.networks.simsiam import load_simsiam
from blobex.perception.segment_reader import SegmentReader
from blobex.scenes.rules import RULES
from blobex.stages import common
from blobex.tracking import runs as tracking

SAMPLES = 32  # images of the sample grid
REPEATS = 20  # random halves, or draws, of real images for the witness's distances
COMPARED = 10_000  # images of either set for precision and recall, which compare each with each
HEADLINES = (
    *("fd_parser", "precision", "recall", "painting_l1", "fd_witness", "flip_rate", "targeted_flip_rate"),
    *("diverse_flip_rate", "witness_flip", "pd_*", "changed_blobs", "cout"),
)


def main(params: Params, setup: str) -> None:
    """Measure generated images, with held-out images for comparison, and the explanations."""
    folder = common.REPORTS / "evaluate" / setup
    with tracking.run(params, "evaluate", setup, manifest_path(params.data.root)) as tracker:
        loaded = load_witnesses(common.MODELS / "witness" / setup, resolve_device(params.run.device))
        measures = generator_measures(params, setup, folder) | witness_measures(params, setup, loaded)
        common.write_metrics(folder, measures | explained_measures(params, setup, loaded), tracker, HEADLINES)
        tracker.log_artifact(folder / "samples.png")


def generator_measures(params: Params, setup: str, folder: Path) -> dict[str, float]:
    """Return Frechet distance, precision and recall of generated images, and the distance of held-out images."""
    options, network, device = params.evaluate, params.data.frechet, resolve_device(params.run.device)
    features = load_features(network, common.MODELS / "parser" / setup, device, Path(params.data.external))
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup).to(device)
    real, name = load_statistics(common.fid_stats(params, setup), setup), frechet_name(network)
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


def witness_measures(params: Params, setup: str, loaded: Witnesses) -> dict[str, float]:
    """Return the L1 of painted held-out images, and Frechet distances by the reading witness's features.

    `fd_witness` is that of samples, `fd_witness_painted` that of held-out images painted from their own segments by the
    pretrained BlobGAN, `blobgan_fd_witness_painted` by the trained one. In each, a random half of the images is
    compared with the other half of the held-out ones, and in `fd_witness_real` these among themselves: `_count` images
    on a side; `_low` and `_high` are the range over random halves. Reconstructions are few: they, and their queries,
    are compared with as many held-out images.
    """
    options, device, seed = params.evaluate, resolve_device(params.run.device), params.run.seed
    folder = common.MODELS / "blobgan_pretrain" / setup
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup).to(device)
    segments = SegmentReader(load_parser(common.MODELS / "parser" / setup), load_pretrained(folder)).to(device)
    painters = {"": load_pretrained_blobgan(folder).to(device), "blobgan_": blobgan}
    images = load_images(params, setup, "val")[: options.generated_images]
    _, queries, inversion = load_inversion(common.inversions(setup))
    measures, painted = dict[str, float](), dict[str, Tensor]()
    with torch.no_grad():
        real = _features(loaded, images, options.batch_size)
        samples = sample_images(blobgan, len(images), options.batch_size, seed)
        sampled = torch.cat([loaded.features(batch).cpu() for batch in samples])
        for prefix, model in painters.items():
            errors, painted[prefix] = _painted(loaded, segments, model, images, options.batch_size)
            measures |= flat({f"{prefix}painting_l1": interval(errors, seed)})
        few = [_features(loaded, to_uint8(each), options.batch_size) for each in (queries, inversion.image)]
    sets = {"fd_witness_real": real, "fd_witness": sampled}
    sets |= {f"{prefix}fd_witness_painted": features for prefix, features in painted.items()}
    distances = {name: split_distances(real, features, seed, REPEATS) for name, features in sets.items()}
    measures |= flat({name: spread(values, len(real) // 2) for name, values in distances.items()})
    if len(few[0]) <= len(real):
        drawn = [spread(drawn_distances(features, real, seed, REPEATS), len(features)) for features in few]
        measures |= flat(dict(zip(("fd_witness_queries", "fd_witness_reconstructions"), drawn, strict=True)))
    return measures


def _painted(
    loaded: Witnesses, segments: SegmentReader, model: BlobGAN, images: Tensor, batch_size: int
) -> tuple[list[float], Tensor]:
    """Paint images (N,3,H,W) uint8 from their segments; return the L1 in [-1,1], and the features, of each."""
    errors, features = list[float](), list[Tensor]()
    device = model.mean_w.device
    for batch in images.split(batch_size):
        original = to_float(batch.to(device))
        painted = model.render(segments(original)).clamp(-1, 1)
        errors += (painted - original).abs().flatten(1).mean(1).double().tolist()
        features.append(loaded.features(to_uint8(painted)).cpu())
    return errors, torch.cat(features)


def _features(loaded: Witnesses, images: Tensor, batch_size: int) -> Tensor:
    return torch.cat([loaded.features(batch).cpu() for batch in images.split(batch_size)])


def explained_measures(params: Params, setup: str, loaded: Witnesses) -> dict[str, float]:
    """Return the measures of the explanations of each variant; those of `basic` have no prefix."""
    size, device, external = params.setup(setup), resolve_device(params.run.device), Path(params.data.external)
    decision = load(params.explain.decision, size, device, common.MODELS, setup)
    parser_folder = common.MODELS / "parser" / setup
    perceptual = load_perceptual(params.data.perceptual, parser_folder, external).to(device)
    distance, parser = perceptual_name(params.data.perceptual), load_parser(parser_folder).to(device)

    def features(images: Tensor) -> Tensor:
        return parser.pooled_features(images.to(device))

    similarity, compared = similarity_name(params.data.similarity), _compared(params, features)
    rule, measures = RULES[params.explain.decision], dict[str, float]()
    views = Views(reader(parser, device), loaded.read, loaded.decide(rule.name))
    for variant in VARIANTS:
        records = read_results(common.explain_results(setup, variant))
        values = explanation_values(records, distance, decision, compared, similarity)
        values |= diversity(records, lambda a, b: perceptual.distance(a.to(device), b.to(device)).cpu())
        of_variant = flat_intervals(values, params.run.seed)
        split = split_distance(records, features, params.run.seed)
        of_variant |= believable_measures(records, views, rule, params.scenes.height, params.run.seed)
        of_variant |= {} if math.isnan(split) else {f"split_{frechet_name('parser')}": split}
        prefix = "" if variant == "basic" else f"{variant}_"
        measures |= {f"{prefix}{name}": value for name, value in of_variant.items()}
    return measures


def _compared(params: Params, features: Features) -> Features:
    """Return the features that the similarity compares: the parser's, or the output of SimSiam's projector."""
    if params.data.similarity == "parser":
        return features
    device = resolve_device(params.run.device)
    network = load_simsiam(require("simsiam", Path(params.data.external))).to(device)
    return lambda images: network(images.to(device))


if __name__ == "__main__":
    common.run_stage(main, "setup")
