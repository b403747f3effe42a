"""Search the counterfactuals of inverted images: reports/explain/<setup>/<variant>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blobex.config.params import Params
from blobex.core.device import Ranks, joined
from blobex.core.files import write_text
from blobex.datasets.images import load_image
from blobex.explain.believable import Views, believable_measures
from blobex.explain.explainer import Explainer
from blobex.explain.input_images import ImageShare
from blobex.explain.request import Output, Request
from blobex.inversion.inversion import load_inversion
from blobex.metrics.counterfactuals import explanation_measures
from blobex.metrics.witness_networks import load_witnesses
from blobex.networks.perceptual import perceptual_name
from blobex.scenes.rules import RULES
from blobex.stages import common
from blobex.tracking import runs as tracking

HEADLINES = (
    *("flip_rate", "flip_rate_forward", "flip_rate_stop", "flip_rate_left", "flip_rate_right"),
    *("changed_blobs", "pd_*", "proximity", "witness_flip", "legible_added", "legible_removed", "ghost"),
)


def main(params: Params, setup: str, variant: str) -> None:
    """Explain every attribute of every image that `invert` inverted; a stopped run is continued.

    Processes that torchrun started share the images; the first one writes and tracks what concerns all of them.
    """
    with joined() as ranks:
        explain(params, setup, variant, ranks)


def explain(params: Params, setup: str, variant: str, ranks: Ranks) -> None:
    """Explain the images of this process."""
    explainer, results = Explainer.load(setup, common.MODELS, params), common.explain_results(setup, variant)
    compose = "full" if params.invert.source == "generated" else None  # those have no original pixels to keep
    request = Request(attributes=params.explain.attributes, variant=variant, compose=compose)
    plan, output = explainer.plan(request), Output(results, published=params.explain.published_format, refresh=True)
    with tracking.run(params, "explain", setup, common.inversions(setup).parent, variant=variant) as tracker:
        names, queries, inversion = load_inversion(common.inversions(setup))
        images: int = getattr(params.explain.images, variant)
        names, queries = names[:images], queries[:images]
        explainer.check_inverted(queries, inversion.layout)
        share = ImageShare.of(names, queries, ranks)
        records = explainer.explain_inverted(share, lambda rows: inversion[share.numbers[rows]], plan, output, ranks)
        if not ranks.first:
            return
        rows, distance = [record.row() for record in records], perceptual_name(params.data.perceptual)
        measures = explanation_measures(rows, distance)
        witnesses = load_witnesses(common.MODELS / "witness" / setup, explainer.device)  # not before the search
        rule, seed = RULES[params.explain.decision], params.run.seed
        views = Views(explainer.readings, witnesses.read, witnesses.decide(rule.name))
        measures |= believable_measures(records, views, rule, params.scenes.height, seed)
        common.write_metrics(results.parent, measures, tracker, HEADLINES)
        write_text(results.parent / "flips.csv", flips(measures, params.explain.attributes))
        tracker.log_table({name: [row[name] for row in rows] for name in rows[0]}, "explanations.json")
        for path in sorted(results.glob("*.*")):
            tracker.log_artifact(path)
        for path in results.glob("snapshot_*.png"):
            tracker.log_image("snapshot", load_image(path), int(path.stem.removeprefix("snapshot_")))


def flips(measures: Mapping[str, float], attributes: Sequence[str]) -> str:
    """Return a table of the share of flipped decisions of each attribute, as `dvc plots` reads it."""
    rows = [f"{name},{measures[f'flip_rate_{name}']:.4f}" for name in attributes if f"flip_rate_{name}" in measures]
    return "\n".join(["attribute,flip_rate", *rows, ""])


if __name__ == "__main__":
    common.run_stage(main, "setup", "variant")
