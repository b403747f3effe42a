"""Measure the speed of a setup's networks and searches: reports/bench/<setup>. Run by `make bench`, never by DVC."""

from __future__ import annotations

import json

from blobex.benchmark.measures import comparison, other_rates, rows, search_measures
from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.core.files import write_text
from blobex.datasets.manifest import manifest_path
from blobex.explain.believable import Decide
from blobex.metrics.witness_networks import load_witnesses
from blobex.stages import common
from blobex.tracking import runs as tracking


def main(params: Params, setup: str) -> None:
    """Print one table: our search beside the published one on the same images, then the speed of every network."""
    folder, device = common.REPORTS / "bench" / setup, resolve_device(params.run.device)
    with tracking.run(params, "bench", setup, manifest_path(params.data.root)) as tracker:

        def witness() -> Decide:
            return load_witnesses(common.MODELS / "witness" / setup, device).decide("plain")

        measures = search_measures(params, setup, common.MODELS, device, witness)
        rates = other_rates(params, setup, common.MODELS, device)
        write_text(folder / "metrics.json", json.dumps(measures | rates, indent=2) + "\n")
        table = comparison(measures, params.bench.published_images) + rows(rates)
        write_text(folder / "table.txt", table)
        print(table)
        tracker.log_metrics(measures | rates)
        tracker.log_artifact(folder / "table.txt")


if __name__ == "__main__":
    common.run_stage(main, "setup")
