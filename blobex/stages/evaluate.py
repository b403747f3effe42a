"""Measure the generator and the explanations of a setup: reports/evaluate/<setup>."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex import tracking
from blobex.config import Params
from blobex.counterfactual.result import read_table
from blobex.datasets.datamodule import load_images
from blobex.datasets.images import to_array, to_uint8, write_png
from blobex.device import resolve_device
from blobex.metrics.explained import explanation_measures
from blobex.metrics.frechet import frechet_distance, load_features, load_statistics, statistics
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.stages import common

SHOWN = 32  # pictures of the sample grid


def main(params: Params, setup: str) -> None:
    """The generator's Frechet distance beside that of held-out real pictures, and what the explanations achieved."""
    folder, options, network = common.REPORTS / "evaluate" / setup, params.evaluate, params.data.frechet
    device = resolve_device(params.run.device)
    features = load_features(network, common.MODELS / "parser" / setup, device)
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup).to(device)
    real = load_statistics(common.fid_stats(params, setup))
    name = "fid" if network == "inception" else f"fd_{network}"
    with tracking.run(params, "evaluate", setup, common.data_root(params)) as tracker:
        held_out = statistics(load_images(params, setup, "val").split(options.batch_size), features, network, setup)
        pictures = generated(blobgan, options.generated_images, options.batch_size, params.run.seed)
        measures = {
            name: frechet_distance(real, statistics(pictures, features, network, setup)),
            f"{name}_real": frechet_distance(real, held_out),
        }
        table = read_table(common.explain_results(setup))
        common.write_metrics(folder, measures | explanation_measures(table), tracker)
        samples = make_grid(next(generated(blobgan, SHOWN, SHOWN, params.run.seed)), nrow=8).float() / 127.5 - 1
        write_png(folder / "samples.png", to_array(samples))
        tracker.log_artifact(folder / "samples.png")


@torch.no_grad()
def generated(blobgan: BlobGAN, count: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """`count` pictures, uint8 (N,3,H,W) in batches, without truncation; they do not depend on the batch size."""
    z = torch.randn(count, blobgan.z_dim, generator=torch.Generator().manual_seed(seed))
    for part in z.to(blobgan.mean_w.device).split(batch_size):
        yield to_uint8(blobgan.render(blobgan.sample(part)))


if __name__ == "__main__":
    common.run_stage(main, "setup")
