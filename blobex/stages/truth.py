"""Measure whether explanations are true: reports/truth/<setup>."""

from __future__ import annotations

from blobex import tracking
from blobex.config.params import Params
from blobex.datasets.manifest import manifest_path
from blobex.stages import common
from blobex.truth.benchmark import benchmark
from blobex.truth.write import metrics, table, write


def main(params: Params, setup: str) -> None:
    """All methods on the same held-out scenes, about models with and without planted shortcuts."""
    folder = common.REPORTS / "truth" / setup
    with tracking.run(params, "truth", setup, manifest_path(params.data.root)) as tracker:
        findings = benchmark(params, setup, common.MODELS)
        paths = write(findings, folder)
        common.write_metrics(folder, metrics(findings), tracker)
        print(table(findings))
        for path in paths:
            tracker.log_artifact(path)


if __name__ == "__main__":
    common.run_stage(main, "setup")
