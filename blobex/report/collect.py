"""Measures and tables of all stages, read from their files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from blobex.config.explain import VARIANTS
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.metrics.interval import flat
from blobex.report.results import Report, measured

SETUPS = ("rect", "square")
REPORTING = ("evaluate", "invert", "truth", "bench")  # stages with reports/<stage>/<setup>/metrics.json
TRAINING = ("parser", "decision", "blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder")  # the same in models/
MAKE_TARGETS = ("bench",)  # stages that `make` runs, not DVC


def stage_measures(reports: Path, models: Path) -> tuple[dict[str, dict[str, dict[str, float]]], list[str]]:
    """Read the measures of all stages by stage and setup; list what is missing."""
    measures: dict[str, dict[str, dict[str, float]]] = {}
    missing = list[str]()
    for stage, variant, folder in metrics_folders(reports, models):
        name = f"{stage} {variant}".strip()
        for setup in SETUPS:
            path = folder / setup / variant / "metrics.json"
            if path.is_file():
                measures.setdefault(name, {})[setup] = read_measures(path)
            elif stage in REPORTING:
                command = f"make {stage} SETUP={setup}" if stage in MAKE_TARGETS else f"dvc repro {stage}@{setup}"
                missing.append(f"measures of {stage}, {setup}: run `{command}`")
    return measures, missing


def metrics_folders(reports: Path, models: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield stage, variant (or "") and folder of all stages that write <folder>/<setup>/<variant>/metrics.json."""
    for variant in VARIANTS:
        yield "explain", variant, reports / "explain"
    for stage in REPORTING:
        yield stage, "", reports / stage
    for stage in TRAINING:
        folder = models / stage
        for variant in sorted({path.parent.name for path in folder.glob("*/*/metrics.json")}) or [""]:
            yield stage, variant, folder


def read_measures(path: Path) -> dict[str, float]:
    """Read the numbers of a metrics.json. Raises BlobexError if it is damaged."""
    try:
        content = read_json(path)
        return {name: float(value) for name, value in content.items() if isinstance(value, int | float)}
    except (OSError, ArithmeticError, ValueError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged: run its stage again") from error


def truth_tables(reports: Path) -> dict[str, str]:
    """Read the truth benchmark's table of each setup that has one."""
    folder = reports / "truth"
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
