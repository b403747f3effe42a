"""Search the counterfactuals of inverted pictures: reports/explain/<setup>."""

from __future__ import annotations

from blobex import tracking
from blobex.config import Params
from blobex.counterfactual.folder import result_folder
from blobex.explainer import Explainer
from blobex.inversion.store import load_inversion
from blobex.metrics.explained import explanation_measures
from blobex.networks.perceptual import perceptual_name
from blobex.stages import common


def main(params: Params, setup: str) -> None:
    """Explain every attribute of every picture that `invert` inverted."""
    explainer, results = Explainer.load(setup, common.MODELS, params), common.explain_results(setup)
    with tracking.run(params, "explain", setup, common.inversions(setup).parent) as tracker:
        names, queries, inversion = load_inversion(common.inversions(setup))
        with result_folder(results) as folder:
            records = explainer.explain_inverted(names, queries, inversion, params.explain.attributes, folder=folder)
        rows, distance = [record.row() for record in records], perceptual_name(params.data.perceptual)
        common.write_metrics(results.parent, explanation_measures(rows, distance), tracker)
        for path in sorted(results.iterdir()):
            tracker.log_artifact(path)


if __name__ == "__main__":
    common.run_stage(main, "setup")
