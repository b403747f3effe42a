"""Invert images to blobs: data/invert/<setup> and reports/invert/<setup>."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex.config.params import Params
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.decoding import write_report
from blobex.datasets.images import name_of, to_array, to_float, write_png
from blobex.datasets.manifest import manifest_path
from blobex.explain.explainer import Explainer
from blobex.explain.inversion_measures import inversion_measures
from blobex.inversion.inversion import save_inversion
from blobex.networks.blobgan import load_blobgan, sample_images
from blobex.stages import common
from blobex.tracking import runs as tracking

SHOWN = 16  # pairs of the snapshot
BATCH = 16  # images generated at once


def main(params: Params, setup: str) -> None:
    """Invert the images that `explain` explains; measure means over them."""
    explainer, folder = Explainer.load(setup, common.MODELS, params), common.REPORTS / "invert" / setup
    with tracking.run(params, "invert", setup, manifest_path(params.data.root)) as tracker:
        load = generated if params.invert.source == "generated" else real
        names, queries, counts = load(params, setup)
        inversion = explainer.invert(queries.to(explainer.device)).to("cpu")
        save_inversion(common.inversions(setup), names, queries, inversion)
        common.write_metrics(folder, counts | inversion_measures(explainer, queries, inversion), tracker)
        pairs = torch.stack([queries[:SHOWN], inversion.image[:SHOWN].clamp(-1, 1)], dim=1).flatten(0, 1)
        snapshot = to_array(make_grid(pairs, nrow=4))
        write_png(folder / "snapshot.png", snapshot)
        tracker.log_image("snapshot", snapshot, 0)


def real(params: Params, setup: str) -> tuple[list[str], Tensor, dict[str, float]]:
    """Load the first readable images that no network was trained on, and write pictures.json.

    Returns:
        Names, images (N,3,H,W) in [-1,1], and how many files were read and skipped.
    """
    images = load_image_files(params, setup, explained_paths(params), "explained", params.invert.images)
    print(write_report(common.inversions(setup).with_name("pictures.json"), images))
    counts: dict[str, float] = {"images": len(images.paths), "skipped": len(images.skipped)}
    return [name_of(path) for path in images.paths], to_float(images.images), counts


def generated(params: Params, setup: str) -> tuple[list[str], Tensor, dict[str, float]]:
    """Return the same for images of the BlobGAN, rounded to bytes as in files; none are skipped."""
    common.inversions(setup).with_name("pictures.json").unlink(missing_ok=True)
    blobgan, options = load_blobgan(common.MODELS / "blobgan" / setup), params.invert
    batches = sample_images(blobgan, options.images, BATCH, params.run.seed, options.truncation)
    names = [f"generated_{index}" for index in range(options.images)]
    return names, to_float(torch.cat(list(batches))), {"images": len(names), "skipped": 0}


if __name__ == "__main__":
    common.run_stage(main, "setup")
