"""Train the witnesses of a setup, which measure explanations only: models/witness/<setup>."""

from __future__ import annotations

import dataclasses

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.manifest import manifest_path
from blobex.datasets.witness_data import load_labelled, load_witness_set
from blobex.networks import weights
from blobex.networks.witness import Witness, save_witness
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.fit import fit, resumed_run_id
from blobex.training.step_module import sample_batches
from blobex.training.witness import (
    DecisionWitnessModule,
    ReadingWitnessModule,
    reading_batches,
    witness_measures,
    witness_seed,
)

HEADLINES = ("accuracy", "accuracy_lowest", "semantic_iou", "drivable_iou", "box_ap50", "panoptic_quality")


def main(params: Params, setup: str) -> None:
    """Train the decision witness, then the reading witness; measure both on the validation images."""
    folder, options, size = common.MODELS / "witness" / setup, params.witness, params.setup(setup)
    seed = witness_seed(params.run.seed, options.seed_offset)
    data = load_witness_set(params, setup)
    decision = DecisionWitnessModule(options, size, data, seed)
    reading = ReadingWitnessModule(options, size, data, seed)
    states = common.checkpoints(folder) / "decision", common.checkpoints(folder) / "reading"
    run_id = resumed_run_id(decision, options.decision.training, states[0])
    single = dataclasses.replace(params.run, devices=1)  # further processes would end with the first training
    with tracking.run(params, "witness", setup, manifest_path(params.data.root), run_id) as tracker:
        training = options.decision.training
        batches = sample_batches((data.images, data.actions), len(data.images), training, seed)
        fit(decision, batches, training, single, states[0], tracker)
        training = options.reading.training
        batches = reading_batches(data, training.batch_size * training.accumulate, seed)
        fit(reading, batches, training, single, states[1], tracker)
        device = resolve_device(params.run.device)
        rules = tuple(params.decision.variants)
        witness = Witness(decision.model.eval().to(device), reading.model.eval().to(device), rules)
        for model in (witness.decision, witness.reading):
            weights.shorten(model)
        save_witness(folder, setup, witness)
        measures = witness_measures(witness, load_labelled(params, setup, "val"), training.batch_size)
        common.write_metrics(folder, measures, tracker, HEADLINES)
    for state in states:
        mark_finished(state, True)


if __name__ == "__main__":
    common.run_stage(main, "setup")
