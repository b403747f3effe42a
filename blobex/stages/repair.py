"""Repair a model with a planted shortcut by its counterfactuals: models/repair/<setup>/<rule> and reports/repair."""

from __future__ import annotations

import shutil

from blobex.config.params import Params
from blobex.core.files import write_text
from blobex.datasets.manifest import manifest_path
from blobex.networks import weights
from blobex.scenes.rules import RULES
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.truth.repair import CHECKPOINTS, PARTS, metrics, repair_rule, table


def main(params: Params, setup: str, rule: str) -> None:
    """Compare repairs with the images of all methods, and save and register the model that the first one repaired."""
    folder, report = common.MODELS / "repair" / setup / rule, common.REPORTS / "repair" / setup / rule / "table.txt"
    with tracking.run(params, "repair", setup, manifest_path(params.data.root), variant=rule) as tracker:
        results, model = repair_rule(params, setup, rule, common.MODELS, folder, tracker)
        weights.save(folder, "decision", {"setup": setup, "variant": rule, **model.config}, model)
        write_text(report, table(RULES[rule], results))
        tracker.log_artifact(report)
        common.write_metrics(folder, metrics(results), tracker)
        print(report.read_text(encoding="utf-8"), end="")
        tracking.register_repaired(tracker, f"decision-{setup}-{rule}", model.cpu(), tracker.run_id)
    for name in (PARTS, CHECKPOINTS):
        shutil.rmtree(folder / name, ignore_errors=True)


if __name__ == "__main__":
    common.run_stage(main, "setup", "rule")
