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
from blobex.inversion.inversion import Inversion, save_inversion
from blobex.metrics.agreement import decision_agreement
from blobex.metrics.alignment import alignment, object_recall
from blobex.metrics.interval import ValuesOfImages, flat_intervals
from blobex.networks.blobgan import load_blobgan, sample_images
from blobex.networks.perceptual import perceptual_name
from blobex.perception.reading import SceneReading
from blobex.stages import common
from blobex.tracking import runs as tracking

SHOWN = 16  # pairs of the snapshot
BATCH = 16  # images at once
MEANS = ("loss", "encoder_loss", "perceptual", "l2", "failed")
HEADLINES = (
    *("loss", "pd_*", "l2", "agreement", "agreement_forward", "agreement_stop", "agreement_left"),
    *("agreement_right", "object_recall", "vehicle_recall", "blob_removes_object", "others_stay"),
)


def main(params: Params, setup: str) -> None:
    """Invert the images that `explain` explains; measure means over them."""
    explainer, folder = Explainer.load(setup, common.MODELS, params), common.REPORTS / "invert" / setup
    with tracking.run(params, "invert", setup, manifest_path(params.data.root)) as tracker:
        load = generated if params.invert.source == "generated" else real
        names, queries, counts = load(params, setup)
        inversion = explainer.invert(queries.to(explainer.device)).to("cpu")
        save_inversion(common.inversions(setup), names, queries, inversion)
        common.write_metrics(folder, counts | inversion_measures(explainer, queries, inversion), tracker, HEADLINES)
        pairs = torch.stack([queries[:SHOWN], inversion.image[:SHOWN].clamp(-1, 1)], dim=1).flatten(0, 1)
        snapshot = to_array(make_grid(pairs, nrow=4))
        write_png(folder / "snapshot.png", snapshot)
        tracker.log_image("snapshot", snapshot, 0)


def real(params: Params, setup: str) -> tuple[list[str], Tensor, dict[str, float]]:
    """Load names, images (N,3,H,W) in [-1,1] and counts of the first readable images; write pictures.json."""
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


def inversion_measures(explainer: Explainer, queries: Tensor, inversion: Inversion) -> dict[str, float]:
    """Return means over the inversions of queries (N,3,H,W), and object measures with intervals."""
    before, after = explainer.outputs(queries), explainer.outputs(inversion.image)
    distance = perceptual_name(explainer.params.data.perceptual)
    measures = {
        distance if name == "perceptual" else name: getattr(inversion, name).double().mean().item() for name in MEANS
    }
    measures |= decision_agreement(explainer.decision.kind, before, after, explainer.decision.outputs)
    return measures | flat_intervals(_object_values(explainer, queries, inversion), explainer.params.run.seed)


def _object_values(explainer: Explainer, queries: Tensor, inversion: Inversion) -> dict[str, ValuesOfImages]:
    """Return which objects of the queries are seen in the reconstructions, and which vanish with their blob."""
    if explainer.parser is None:
        return {}

    def read(images: Tensor) -> list[SceneReading]:
        return explainer.readings([to_array(image) for image in images])

    before, after = read(queries), read(inversion.image)
    networks, layout = explainer.exact, inversion.layout.to(explainer.device)
    return {
        "object_recall": object_recall(before, after),
        "vehicle_recall": object_recall(before, after, "vehicle"),
        **alignment(layout, inversion.image, networks.scores, networks.render, read, BATCH),
    }


if __name__ == "__main__":
    common.run_stage(main, "setup")
