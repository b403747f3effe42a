"""Render all results as one page: reports/report/report.html. Run by `make report`; not a stage of dvc.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from blobex.config.explain import VARIANTS
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, without_password
from blobex.explain.explanation import TABLE, Explanation, read_table
from blobex.explain.results_folder import SETTINGS, as_json, read_results
from blobex.layout.blobs import concatenate
from blobex.layout.splat import AREA, Canvas, score_pyramid
from blobex.metrics.interval import flat
from blobex.networks.perceptual import perceptual_name
from blobex.networks.weights import CONFIG, read_config
from blobex.report.page import page
from blobex.report.results import GalleryItem, Report, Results, measured
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.tracking.store import OFF

SETUPS = ("rect", "square")
REPORTING = ("evaluate", "invert", "truth", "bench")  # stages with reports/<stage>/<setup>/metrics.json
TRAINING = ("parser", "decision", "blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder")  # the same in models/
MAKE_TARGETS = ("bench",)  # stages that `make` runs, not DVC
MAP_HEIGHT = 128  # points of a blob map
BATCH = 16  # layouts rendered at once


def main(params: Params) -> None:
    """Render the results of both setups, as far as they exist; see README."""
    folder = common.REPORTS / "report"
    results, missing = explained(params.report.pictures)
    if not results:
        raise BlobexError("there are no explanations in reports/explain: run `dvc repro explain` first")
    measures, unmeasured = stage_measures()
    uri = None if params.run.tracking_uri == OFF else without_password(params.run.tracking_uri)
    distance, seed = perceptual_name(params.data.perceptual), params.run.seed
    report = Report(results, measures, truth_tables(), missing + unmeasured, distance, uri, seed)
    with tracking.run(params, "report", "all") as tracker:
        common.write_text(folder / "report.html", page(report))
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
    """Read the names of the model's outputs. BlobexError: settings.json is missing or damaged."""
    try:
        return [str(name) for name in read_json(folder / SETTINGS)["decision"]["outputs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BlobexError(f"cannot read {folder / SETTINGS}: run `dvc repro explain` again") from error


@torch.no_grad()
def gallery_items(explanations: Sequence[Explanation], setup: str) -> list[GalleryItem]:
    """Return explanations with their blob maps before and after the change."""
    canvas = map_canvas(explanations[0], setup)
    layouts = [layout for each in explanations for layout in (each.blobs_before, each.blobs_after)]
    batches = [concatenate(layouts[first : first + BATCH]) for first in range(0, len(layouts), BATCH)]
    scores = [score_pyramid(batch, canvas, canvas.height)[canvas.height] for batch in batches]
    maps = torch.cat([each.argmax(1) - 1 for each in scores]).numpy()
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


def stage_measures() -> tuple[dict[str, dict[str, dict[str, float]]], list[str]]:
    """Read the measures of all stages by stage and setup; list what is missing."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    missing = list[str]()
    for stage, variant, folder in metrics_folders():
        name = f"{stage} {variant}".strip()
        for setup in SETUPS:
            path = folder / setup / variant / "metrics.json"
            if path.is_file():
                found.setdefault(name, {})[setup] = read_measures(path)
            elif stage in REPORTING:
                command = f"make {stage} SETUP={setup}" if stage in MAKE_TARGETS else f"dvc repro {stage}@{setup}"
                missing.append(f"measures of {stage}, {setup}: run `{command}`")
    return found, missing


def metrics_folders() -> Iterator[tuple[str, str, Path]]:
    """Yield stage, variant (or "") and folder of all stages that write <folder>/<setup>/<variant>/metrics.json."""
    for variant in VARIANTS:
        yield "explain", variant, common.REPORTS / "explain"
    for stage in REPORTING:
        yield stage, "", common.REPORTS / stage
    for stage in TRAINING:
        folder = common.MODELS / stage
        for variant in sorted({path.parent.name for path in folder.glob("*/*/metrics.json")}) or [""]:
            yield stage, variant, folder


def read_measures(path: Path) -> dict[str, float]:
    """Read the numbers of a metrics.json. BlobexError: it is damaged."""
    try:
        content = read_json(path)
        return {name: float(value) for name, value in content.items() if isinstance(value, int | float)}
    except (OSError, ArithmeticError, ValueError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged: run its stage again") from error


def truth_tables() -> dict[str, str]:
    """Read the truth benchmark's table of each setup that has one."""
    folder = common.REPORTS / "truth"
    paths = {setup: folder / setup / "table.txt" for setup in SETUPS}
    try:
        return {setup: path.read_text(encoding="utf-8") for setup, path in paths.items() if path.is_file()}
    except UnicodeDecodeError as error:
        raise BlobexError(f"a table.txt in {folder} is damaged: run `dvc repro truth` again") from error


def page_measures(report: Report, path: Path) -> dict[str, float]:
    """Return the figures of the overview with their intervals, and the size of the page."""
    values: dict[str, float] = {"explanations": sum(len(results.rows) for results in report.results)}
    values |= {"shown": sum(len(results.gallery) for results in report.results), "bytes": path.stat().st_size}
    for results in report.results:
        intervals = measured(results, report.distance, report.seed)
        values |= flat({f"{results.setup}_{results.variant}_{name}": value for name, value in intervals.items()})
    return values


if __name__ == "__main__":
    common.run_stage(main)
