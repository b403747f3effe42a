"""Train the control model, a regression of steering and brake: models/control/<setup>."""

from __future__ import annotations

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.controls import load_controls
from blobex.datasets.manifest import manifest_path
from blobex.networks import weights
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.control import ControlModule, control_measures
from blobex.training.fit import fit, resumed_run_id
from blobex.training.step_module import sample_batches


def main(params: Params, setup: str) -> None:
    """Train on the controls of synthetic scenes, measure on the validation images, register the model."""
    folder, training = common.MODELS / "control" / setup, params.control.training
    data = load_controls(params, setup, "train")
    module = ControlModule(params.control, params.setup(setup), data, params.run.seed)
    batches = sample_batches((data.images, data.controls), len(data.images), training, params.run.seed)
    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "control", setup, manifest_path(params.data.root), run_id) as tracker:
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker)
        model = module.model.eval().to(resolve_device(params.run.device))
        weights.shorten(model)
        weights.save(folder, "control", {"setup": setup, **model.config}, model)
        held_out = load_controls(params, setup, "val")
        common.write_metrics(folder, control_measures(model, held_out, training.batch_size), tracker)
        tracking.register_decision(tracker, f"control-{setup}", model.cpu(), *held_out.images.shape[2:])
    mark_finished(common.checkpoints(folder), True)


if __name__ == "__main__":
    common.run_stage(main, "setup")
