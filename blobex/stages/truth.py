"""Measure whether explanations name the true causes: reports/truth/<setup>."""

from __future__ import annotations

from blobex.config.params import Params
from blobex.core.ranks import joined
from blobex.datasets.manifest import manifest_path
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.truth.benchmark import benchmark, forget
from blobex.truth.write import metrics, table, write


def main(params: Params, setup: str) -> None:
    """Compare all methods on the same held-out scenes, for models with and without planted shortcuts.

    Processes that torchrun started share the models; the first one writes and tracks the results.
    """
    folder = common.REPORTS / "truth" / setup
    with joined() as ranks, tracking.run(params, "truth", setup, manifest_path(params.data.root)) as tracker:
        findings = benchmark(params, setup, common.MODELS, ranks)
        if not ranks.first:
            return
        paths = write(findings, folder)
        common.write_metrics(folder, metrics(findings), tracker)
        print(table(findings))
        for path in paths:
            tracker.log_artifact(path)
        forget(common.MODELS, setup)


if __name__ == "__main__":
    common.run_stage(main, "setup")
