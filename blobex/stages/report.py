"""Put all results on one page: reports/report/report.html. Run by `make report`, never by DVC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from blobex.config.explain import VARIANTS
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.explain.explanation import TABLE, Explanation, read_table
from blobex.explain.results_folder import SETTINGS, read_results
from blobex.layout.blobs import concatenate
from blobex.layout.splat import AREA, Canvas, score_pyramid
from blobex.metrics.interval import flat
from blobex.networks.perceptual import perceptual_name
from blobex.networks.weights import CONFIG, read_config
from blobex.report.page import page
from blobex.report.page_results import Painted, Report, Results, measured
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.tracking.store import OFF

SETUPS = ("rect", "square")
MEASURED = ("evaluate", "invert", "truth", "bench")  # stages that write reports/<stage>/<setup>/metrics.json
TRAINED = (
    "parser",
    "decision",
    "blobgan_pretrain",
    "blobgan",
    "encoder_pretrain",
    "encoder",
)  # and models/<stage>/<setup>/
MAKE = ("bench",)  # stages that `make` runs, and not DVC
MAP_HEIGHT = 128  # points of a map of blobs
TOGETHER = 16  # layouts drawn at once


def main(params: Params) -> None:
    """One HTML page about both setups, as far as there are results; see README."""
    folder = common.REPORTS / "report"
    results, missing = explained(params.report.pictures)
    if not results:
        raise BlobexError("there are no explanations in reports/explain: run `dvc repro explain` first")
    figures, unknown = stage_measures()
    told, distance = tables(), perceptual_name(params.data.perceptual)
    store = None if params.run.tracking_uri == OFF else params.run.tracking_uri
    report = Report(results, figures, told, missing + unknown, distance, store, params.run.seed)
    with tracking.run(params, "report", "all") as tracker:
        common.write_text(folder / "report.html", page(report))
        common.write_metrics(folder, numbers(report, folder / "report.html"), tracker)
        tracker.log_artifact(folder / "report.html")
    print(f"{folder / 'report.html'}: {sum(len(each.shown) for each in results)} explanations")


def explained(pictures: int) -> tuple[list[Results], list[str]]:
    """The explanations of each setup and variant, some of them to be shown, and what there is none of."""
    results, missing = list[Results](), list[str]()
    for setup in SETUPS:
        for variant in VARIANTS:
            folder = common.explain_results(setup, variant)
            if not (folder / TABLE).is_file():
                missing.append(f"explanations of {setup}, {variant}: run `dvc repro explain@{setup}-{variant}`")
                continue
            records = read_results(folder)
            names = list(dict.fromkeys(record.image for record in records))[:pictures]
            shown = [record for record in records if record.image in names]
            rows = read_table(folder)
            results.append(Results(setup, variant, rows, records, shown, painted(shown, setup), outputs(folder)))
    return results, missing


def outputs(folder: Path) -> list[str]:
    """What the model's scores are called; BlobexError if settings.json is missing or damaged."""
    try:
        return [str(name) for name in read_json(folder / SETTINGS)["decision"]["outputs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BlobexError(f"cannot read {folder / SETTINGS}: run `dvc repro explain` again") from error


@torch.no_grad()
def painted(records: Sequence[Explanation], setup: str) -> list[Painted]:
    """Which blob paints each point of the pictures, before and after; -1 is the background."""
    canvas = map_canvas(records[0], setup)
    layouts = [layout for record in records for layout in (record.blobs_before, record.blobs_after)]
    maps = [
        (
            score_pyramid(concatenate(layouts[first : first + TOGETHER]), canvas, canvas.height)[canvas.height].argmax(
                1
            )
            - 1
        )
        for first in range(0, len(layouts), TOGETHER)
    ]
    drawn = torch.cat(maps).numpy()
    return list(zip(drawn[::2], drawn[1::2], strict=True))


def map_canvas(record: Explanation, setup: str) -> Canvas:
    """What the maps are drawn on: as the generator does, whatever the size of its pictures."""
    folder = common.MODELS / "blobgan" / setup
    network = read_config(folder, "blobgan").get("network", {}) if (folder / CONFIG).is_file() else {}
    if not isinstance(network, dict):
        raise BlobexError(f"the config in {folder} is damaged: run `dvc repro blobgan` again")
    height, width = record.query.shape[:2]
    return Canvas(MAP_HEIGHT, width // height, network.get("rectangle") == "legacy", network.get("blob_area", AREA))


def stage_measures() -> tuple[dict[str, dict[str, dict[str, float]]], list[str]]:
    """Every stage's measures by stage and setup, and what there is none of."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    missing = list[str]()
    places = [(f"explain {variant}", common.REPORTS / "explain", variant) for variant in VARIANTS]
    places += [(stage, common.REPORTS / stage, "") for stage in MEASURED]
    for stage in TRAINED:
        variants = sorted({path.parent.name for path in (common.MODELS / stage).glob("*/*/metrics.json")})
        places += [(f"{stage} {variant}".strip(), common.MODELS / stage, variant) for variant in variants or [""]]
    for name, folder, variant in places:
        for setup in SETUPS:
            measures = read_measures(folder / setup / variant / "metrics.json")
            if measures is not None:
                found.setdefault(name, {})[setup] = measures
            elif folder.name in MEASURED:
                run = f"make {name} SETUP={setup}" if name in MAKE else f"dvc repro {name}@{setup}"
                missing.append(f"measures of {name}, {setup}: run `{run}`")
    return found, missing


def read_measures(path: Path) -> dict[str, float] | None:
    """The numbers of a metrics.json; None if there is none. BlobexError if it is damaged."""
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        return {name: float(value) for name, value in content.items() if isinstance(value, int | float)}
    except (OSError, ArithmeticError, ValueError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged: run its stage again") from error


def tables() -> dict[str, str]:
    """The truth benchmark's table of each setup that has one."""
    paths = {setup: common.REPORTS / "truth" / setup / "table.txt" for setup in SETUPS}
    try:
        return {setup: path.read_text(encoding="utf-8") for setup, path in paths.items() if path.is_file()}
    except UnicodeDecodeError as error:
        raise BlobexError(
            f"a table.txt in {common.REPORTS / 'truth'} is damaged: run `dvc repro truth` again"
        ) from error


def numbers(report: Report, path: Path) -> dict[str, float]:
    """The figures of the page's overview, with their intervals, and its size."""
    values: dict[str, float] = {"explanations": sum(len(each.rows) for each in report.results)}
    values |= {"shown": sum(len(each.shown) for each in report.results), "bytes": path.stat().st_size}
    for each in report.results:
        found = measured(each.rows, report.distance, report.seed)
        values |= flat({f"{each.setup}_{each.variant}_{name}": value for name, value in found.items()})
    return values


if __name__ == "__main__":
    common.run_stage(main)
