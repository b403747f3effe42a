"""Turn pictures into blobs: data/invert/<setup> and reports/invert/<setup>."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex import tracking
from blobex.config import Params
from blobex.datasets.datamodule import decode, explained_paths
from blobex.datasets.images import to_array, to_float, write_png
from blobex.explainer import Explainer
from blobex.inversion.store import save_inversion
from blobex.metrics.flips import agreement_measures
from blobex.networks.blobgan import load_blobgan, sample_pictures
from blobex.scenes.rules import ACTIONS
from blobex.stages import common

SHOWN = 16  # pairs of the snapshot


def main(params: Params, setup: str) -> None:
    """Invert the pictures that `explain` explains; the measures are means over them."""
    explainer, folder = Explainer.load(setup), common.REPORTS / "invert" / setup
    with tracking.run(params, "invert", setup, common.data_root(params)) as tracker:
        names, queries = generated(params, setup) if params.invert.source == "generated" else real(params, setup)
        inversion = explainer.invert(queries.to(explainer.device)).to("cpu")
        save_inversion(common.inversions(setup), names, queries, inversion)
        before, after = (decisions(explainer, images) for images in (queries, inversion.image))
        means = ("loss", "encoder_loss", "perceptual", "l2", "failed")
        measures = {name: getattr(inversion, name).double().mean().item() for name in means}
        common.write_metrics(folder, measures | agreement_measures(before, after, ACTIONS), tracker)
        pairs = torch.stack([queries[:SHOWN], inversion.image[:SHOWN].clamp(-1, 1)], dim=1).flatten(0, 1)
        picture = to_array(make_grid(pairs, nrow=4))
        write_png(folder / "snapshot.png", picture)
        tracker.log_image("snapshot", picture, 0)


def decisions(explainer: Explainer, images: Tensor) -> Tensor:
    """The decision model's logits (N,4) of pictures on the CPU."""
    size = explainer.params.invert.batch_size
    return common.in_batches(lambda batch: explainer.decide(batch.to(explainer.device)).cpu(), images, size=size)


def real(params: Params, setup: str) -> tuple[list[str], Tensor]:
    """Names and pictures (N,3,height,width) in [-1,1] that no network was trained on."""
    paths = explained_paths(params)[: params.invert.images]
    return [str(path) for path in paths], to_float(decode(paths, params.setup(setup)))


def generated(params: Params, setup: str) -> tuple[list[str], Tensor]:
    """Pictures of the BlobGAN itself, rounded to bytes as files are."""
    blobgan, options = load_blobgan(common.MODELS / "blobgan" / setup), params.invert
    batches = sample_pictures(blobgan, options.images, options.batch_size, params.run.seed, options.truncation)
    return [f"generated_{index}" for index in range(options.images)], to_float(torch.cat(list(batches)))


if __name__ == "__main__":
    common.run_stage(main, "setup")
