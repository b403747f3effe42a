"""Train a decision model: models/decision/<setup>/<variant>; the variant is a rule of `scenes.rules.RULES`."""

from __future__ import annotations

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import load_planted
from blobex.datasets.manifest import manifest_path
from blobex.networks import weights
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.decision import DecisionModule, decision_measures
from blobex.training.fit import fit, resumed_run_id
from blobex.training.step_module import sample_batches


def main(params: Params, setup: str, variant: str) -> None:
    """Train on actions, measure on the validation images, register the model."""
    folder, training = common.MODELS / "decision" / setup / variant, params.decision.training
    data = load_planted(params, setup, "train", variant)
    module = DecisionModule(params.decision, params.setup(setup), data, params.run.seed)
    batches = sample_batches((data.images, data.actions), len(data.images), training, params.run.seed)
    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "decision", setup, manifest_path(params.data.root), run_id, variant) as tracker:
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker)
        model = module.model.eval().to(resolve_device(params.run.device))
        weights.shorten(model)
        weights.save(folder, "decision", {"setup": setup, "variant": variant, **model.config}, model)
        held_out = load_planted(params, setup, "val", variant)
        common.write_metrics(folder, decision_measures(model, held_out, training.batch_size), tracker)
        name = f"decision-{setup}-{variant}"
        tracking.register_decision(tracker, name, model.cpu(), *held_out.images.shape[2:])
    mark_finished(common.checkpoints(folder), True)


if __name__ == "__main__":
    common.run_stage(main, "setup", "variant")
