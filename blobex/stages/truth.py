"""Measure whether explanations name the true causes: reports/truth/<setup>."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blobex.config.params import Params
from blobex.core.device import joined, resolve_device
from blobex.datasets.manifest import manifest_path
from blobex.metrics.witness_networks import deferred_decisions
from blobex.scenes.rules import RULES
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.truth.benchmark import Witness
from blobex.truth.result_files import metrics, run_benchmark
from blobex.truth.results import TruthResults

HEADLINES = (
    *("plain_ours_validity", "plain_ours_cause_recall", "plain_ours_witness_flip"),
    *(
        f"{rule}_ours_{name}"
        for rule in RULES
        if rule != "plain"
        for name in ("cause_recall", "shortcut_share", "auc_explanations")
    ),
)


def main(params: Params, setup: str) -> None:
    """Compare all methods on the same held-out scenes; processes that torchrun started share the models."""
    folder = common.REPORTS / "truth" / setup
    with joined() as ranks, tracking.run(params, "truth", setup, manifest_path(params.data.root)) as tracker:

        def track(results: TruthResults, paths: Sequence[Path]) -> None:
            common.write_metrics(folder, metrics(results), tracker, HEADLINES)
            for path in paths:
                tracker.log_artifact(path)

        device = resolve_device(params.run.device)
        witness = Witness(*deferred_decisions(common.MODELS / "witness" / setup, device))
        run_benchmark(params, setup, common.MODELS, folder, ranks, track, witness)


if __name__ == "__main__":
    common.run_stage(main, "setup")
