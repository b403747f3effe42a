"""Measure the generator and the explanations of a setup: reports/evaluate/<setup>."""

from __future__ import annotations

from pathlib import Path

from torchvision.utils import make_grid

from blobex import tracking
from blobex.config import Params
from blobex.counterfactual.result import read_table
from blobex.datasets.datamodule import load_images
from blobex.datasets.images import to_array, write_png
from blobex.device import resolve_device
from blobex.metrics.explained import explanation_measures
from blobex.metrics.frechet import frechet_distance, frechet_name, load_features, load_statistics, statistics
from blobex.networks.blobgan import load_blobgan, sample_pictures
from blobex.networks.perceptual import perceptual_name
from blobex.stages import common

SHOWN = 32  # pictures of the sample grid


def main(params: Params, setup: str) -> None:
    """The generator's Frechet distance beside that of held-out real pictures, and what the explanations achieved."""
    folder, options, network = common.REPORTS / "evaluate" / setup, params.evaluate, params.data.frechet
    device = resolve_device(params.run.device)
    features = load_features(network, common.MODELS / "parser" / setup, device, Path(params.data.external))
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup).to(device)
    real = load_statistics(common.fid_stats(params, setup))
    name = frechet_name(network)
    with tracking.run(params, "evaluate", setup, common.data_root(params)) as tracker:
        held_out = statistics(load_images(params, setup, "val").split(options.batch_size), features, network, setup)
        pictures = sample_pictures(blobgan, options.generated_images, options.batch_size, params.run.seed)
        measures = {
            name: frechet_distance(real, statistics(pictures, features, network, setup)),
            f"{name}_real": frechet_distance(real, held_out),
        }
        table = read_table(common.explain_results(setup))
        common.write_metrics(
            folder, measures | explanation_measures(table, perceptual_name(params.data.perceptual)), tracker
        )
        samples = make_grid(next(sample_pictures(blobgan, SHOWN, SHOWN, params.run.seed)), nrow=8).float() / 127.5 - 1
        write_png(folder / "samples.png", to_array(samples))
        tracker.log_artifact(folder / "samples.png")


if __name__ == "__main__":
    common.run_stage(main, "setup")
