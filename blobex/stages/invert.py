"""Turn pictures into blobs: data/invert/<setup> and reports/invert/<setup>."""

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
from blobex.explain.measures import with_intervals
from blobex.inversion.inversion import Inversion
from blobex.inversion.inversion_file import save_inversion
from blobex.metrics.agreement import decision_agreement
from blobex.metrics.alignment import alignment, found_again
from blobex.networks.blobgan import load_blobgan, sample_images
from blobex.networks.perceptual import perceptual_name
from blobex.perception.reading import SceneReading
from blobex.stages import common
from blobex.tracking import runs as tracking

SHOWN = 16  # pairs of the snapshot


def main(params: Params, setup: str) -> None:
    """Invert the pictures that `explain` explains; the measures are means over them."""
    explainer, folder = Explainer.load(setup, common.MODELS, params), common.REPORTS / "invert" / setup
    with tracking.run(params, "invert", setup, manifest_path(params.data.root)) as tracker:
        read = generated if params.invert.source == "generated" else real
        names, queries, counts = read(params, setup)
        inversion = explainer.invert(queries.to(explainer.device)).to("cpu")
        save_inversion(common.inversions(setup), names, queries, inversion)
        before, after = explainer.outputs(queries), explainer.outputs(inversion.image)
        names_of = {"perceptual": perceptual_name(params.data.perceptual)}
        means = ("loss", "encoder_loss", "perceptual", "l2", "failed")
        measures = {names_of.get(name, name): getattr(inversion, name).double().mean().item() for name in means}
        measures |= decision_agreement(explainer.decision.kind, before, after, explainer.decision.outputs)
        measures |= with_intervals(object_values(explainer, queries, inversion), params.run.seed)
        common.write_metrics(folder, counts | measures, tracker)
        pairs = torch.stack([queries[:SHOWN], inversion.image[:SHOWN].clamp(-1, 1)], dim=1).flatten(0, 1)
        picture = to_array(make_grid(pairs, nrow=4))
        write_png(folder / "snapshot.png", picture)
        tracker.log_image("snapshot", picture, 0)


def object_values(explainer: Explainer, queries: Tensor, inversion: Inversion) -> dict[str, list[float]]:
    """Which objects of the pictures are seen in the reconstructions, and which vanish with their blob."""
    if explainer.parser is None:
        return {}

    def read(pictures: Tensor) -> list[SceneReading]:
        return explainer.readings([to_array(picture) for picture in pictures])

    seen, remade = read(queries), read(inversion.image)
    networks, device = explainer.exact, explainer.device
    return {
        "object_recall": found_again(seen, remade),
        "vehicle_recall": found_again(seen, remade, "vehicle"),
        **alignment(inversion.layout.to(device), inversion.image, networks.scores, networks.render, read, SHOWN),
    }


def real(params: Params, setup: str) -> tuple[list[str], Tensor, dict[str, float]]:
    """Names, pictures (N,3,height,width) in [-1,1] that no network was trained on, and how many were read and skipped.

    They are the first that can be read; what became of each file is written to pictures.json.
    """
    pictures = load_image_files(params, setup, explained_paths(params), "explained", params.invert.images)
    print(write_report(common.inversions(setup).with_name("pictures.json"), pictures))
    counts: dict[str, float] = {"images": len(pictures.paths), "skipped": len(pictures.skipped)}
    return [name_of(path) for path in pictures.paths], to_float(pictures.images), counts


def generated(params: Params, setup: str) -> tuple[list[str], Tensor, dict[str, float]]:
    """The same for pictures of the BlobGAN itself, rounded to bytes as files are; there is nothing to skip."""
    common.inversions(setup).with_name("pictures.json").unlink(missing_ok=True)
    blobgan, options = load_blobgan(common.MODELS / "blobgan" / setup), params.invert
    batches = sample_images(blobgan, options.images, SHOWN, params.run.seed, options.truncation)
    names = [f"generated_{index}" for index in range(options.images)]
    return names, to_float(torch.cat(list(batches))), {"images": len(names), "skipped": 0}


if __name__ == "__main__":
    common.run_stage(main, "setup")
