"""Render all results as one page: reports/report/report.html. Run by `make report`; not a stage of dvc.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blobex.config.explain import VARIANTS
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, without_password, write_text
from blobex.explain.explanation import Explanation
from blobex.explain.overviews import TABLE, read_table
from blobex.explain.record_files import as_json
from blobex.explain.results_folder import SETTINGS, read_results
from blobex.layout.splat import AREA, Canvas, dominant_blobs
from blobex.networks.perceptual import perceptual_name
from blobex.networks.weights import CONFIG, read_config
from blobex.report.causes import verified_causes
from blobex.report.page import page
from blobex.report.results import (
    SETUPS,
    GalleryItem,
    Report,
    Results,
    page_measures,
    repair_tables,
    stage_measures,
    truth_tables,
)
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.tracking.store import OFF

MAP_HEIGHT = 128  # points of a blob map


def main(params: Params) -> None:
    """Render the results of both setups, as far as they exist; see README."""
    folder = common.REPORTS / "report"
    results, missing = explained(params.report.pictures)
    if not results:
        raise BlobexError("there are no explanations in reports/explain: run `dvc repro explain` first")
    measures, unmeasured = stage_measures(common.REPORTS, common.MODELS)
    uri = None if params.run.tracking_uri == OFF else without_password(params.run.tracking_uri)
    distance, seed = perceptual_name(params.data.perceptual), params.run.seed
    truth, repair = truth_tables(common.REPORTS), repair_tables(common.REPORTS)
    report = Report(results, measures, truth, missing + unmeasured, distance, uri, seed, repair)
    with tracking.run(params, "report", "all") as tracker:
        causes = {setup: found for setup in SETUPS if (found := verified_causes(common.REPORTS / "truth" / setup))}
        write_text(folder / "report.html", page(report, causes))
        common.write_metrics(folder, page_measures(report, folder / "report.html"), tracker)
        tracker.log_artifact(folder / "report.html")
    print(f"{folder / 'report.html'}: {sum(len(each.gallery) for each in results)} explanations")


def explained(images: int) -> tuple[list[Results], list[str]]:
    """Read the explanations of every setup and variant, with a gallery of the first images; list what is missing."""
    results, missing = list[Results](), list[str]()
    for setup in SETUPS:
        for variant in VARIANTS:
            folder = common.explain_results(setup, variant)
            if not (folder / TABLE).is_file():
                missing.append(f"explanations of {setup}, {variant}: run `dvc repro explain@{setup}-{variant}`")
                continue
            explanations = read_results(folder)
            names = list(dict.fromkeys(explanation.image for explanation in explanations))[:images]
            gallery = gallery_items([each for each in explanations if each.image in names], setup)
            records = [as_json(explanation) for explanation in explanations]
            results.append(Results(setup, variant, read_table(folder), records, gallery, output_names(folder)))
    return results, missing


def output_names(folder: Path) -> list[str]:
    """Read the names of the model's outputs. Raises BlobexError if settings.json is missing or damaged."""
    try:
        return [str(name) for name in read_json(folder / SETTINGS)["decision"]["outputs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BlobexError(f"cannot read {folder / SETTINGS}: run `dvc repro explain` again") from error


def gallery_items(explanations: Sequence[Explanation], setup: str) -> list[GalleryItem]:
    """Return explanations with their blob maps before and after the change."""
    layouts = [layout for each in explanations for layout in (each.blobs_before, each.blobs_after)]
    maps = dominant_blobs(layouts, map_canvas(explanations[0], setup)).numpy()
    return [
        GalleryItem(as_json(each), each.query, each.reconstruction, each.counterfactual, before, after)
        for each, before, after in zip(explanations, maps[::2], maps[1::2], strict=True)
    ]


def map_canvas(explanation: Explanation, setup: str) -> Canvas:
    """Return the canvas of blob maps: as the generator of a setup renders, at MAP_HEIGHT."""
    folder = common.MODELS / "blobgan" / setup
    network = read_config(folder, "blobgan").get("network", {}) if (folder / CONFIG).is_file() else {}
    if not isinstance(network, dict):
        raise BlobexError(f"the config in {folder} is damaged: run `dvc repro blobgan` again")
    height, width = explanation.query.shape[:2]
    return Canvas(MAP_HEIGHT, width // height, network.get("rectangle") == "legacy", network.get("blob_area", AREA))


if __name__ == "__main__":
    common.run_stage(main)
