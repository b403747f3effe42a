"""Train the scene parser of a setup: models/parser/<setup>."""

from __future__ import annotations

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import load_detection, load_segmentation
from blobex.datasets.manifest import manifest_path
from blobex.networks import weights
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.fit import fit, resumed_run_id
from blobex.training.parser import ParserModule, parser_batches, parser_measures


def main(params: Params, setup: str) -> None:
    """Train on boxes, semantic, panoptic and drivable labels; measure on the validation images."""
    folder, training = common.MODELS / "parser" / setup, params.parser.training
    detection, segmentation = load_detection(params, setup, "train"), load_segmentation(params, setup, "train")
    module = ParserModule(params.parser, params.setup(setup), detection, segmentation, params.run.seed)
    batches = parser_batches(detection, segmentation, training.batch_size * training.accumulate, params.run.seed)
    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "parser", setup, manifest_path(params.data.root), run_id) as tracker:
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker)
        model = module.parser.eval().to(resolve_device(params.run.device))
        weights.shorten(model)
        weights.save(folder, "parser", {"setup": setup, **model.config}, model)
        held_out = load_detection(params, setup, "val"), load_segmentation(params, setup, "val")
        common.write_metrics(folder, parser_measures(model, *held_out, training.batch_size), tracker)
    mark_finished(common.checkpoints(folder), True)


if __name__ == "__main__":
    common.run_stage(main, "setup")
