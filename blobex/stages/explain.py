"""Search the counterfactuals of inverted pictures: reports/explain/<setup>."""

from __future__ import annotations

from blobex import tracking
from blobex.config import Params
from blobex.counterfactual.folder import result_folder
from blobex.explainer import Explainer
from blobex.inversion.store import load_inversion
from blobex.metrics.explained import explanation_measures
from blobex.stages import common


def main(params: Params, setup: str) -> None:
    """Explain every attribute of every picture that `invert` inverted."""
    explainer, results = Explainer.load(setup), common.explain_results(setup)
    with tracking.run(params, "explain", setup, common.inversions(setup).parent) as tracker:
        names, queries, inversion = load_inversion(common.inversions(setup))
        with result_folder(results) as folder:
            records = explainer.explain_inverted(names, queries, inversion, params.explain.attributes, folder=folder)
        common.write_metrics(results.parent, explanation_measures([record.row() for record in records]), tracker)
        for path in sorted(results.iterdir()):
            tracker.log_artifact(path)


if __name__ == "__main__":
    common.run_stage(main, "setup")
