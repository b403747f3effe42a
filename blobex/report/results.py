"""Content of the report page: explanations, and measures and tables read from the files of all stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blobex.config.explain import VARIANTS
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.metrics.interval import Interval, ValuesOfImages, flat
from blobex.perception.sentences import ObjectChange

SETUPS = ("rect", "square")
REPORTING = ("evaluate", "invert", "truth", "bench")  # stages with reports/<stage>/<setup>/metrics.json
TRAINING = (  # the same in models/
    *("parser", "decision", "blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder", "witness", "repair"),
)

Record = Mapping[str, Any]  # an explanation in the form of record.json


@dataclass(frozen=True)
class GalleryItem:
    """An explanation of the gallery with its images, uint8 (H,W,3), and its blob maps.

    A blob map (H,W) holds the index of the blob with the largest score at each point, -1 for the background.
    """

    record: Record
    query: np.ndarray
    reconstruction: np.ndarray
    counterfactual: np.ndarray
    blobs_before: np.ndarray
    blobs_after: np.ndarray


@dataclass(frozen=True)
class Results:
    """The explanations of one setup and variant."""

    setup: str
    variant: str
    rows: Sequence[Mapping[str, Any]]  # of explanations.parquet
    records: Sequence[Record]  # of all explanations
    gallery: Sequence[GalleryItem]  # of those that the page shows
    outputs: Sequence[str]  # names of the model's outputs


@dataclass(frozen=True)
class Report:
    """The content of the page."""

    results: Sequence[Results]
    measures: Mapping[str, Mapping[str, Mapping[str, float]]]  # by stage, setup and name
    truth: Mapping[str, str]  # table of the truth benchmark, by setup
    missing: Sequence[str]  # results that do not exist, each with the command that makes them
    distance: str  # name of the perceptual distance
    tracking_uri: str | None  # without password; None if nothing is tracked
    seed: int  # of the bootstrap
    repair: Mapping[str, str] = field(default_factory=dict)  # tables of repaired models, by setup


def measured(results: Results, distance: str, seed: int) -> dict[str, Interval]:
    """Compute flip rate, flips by the change, perceptual distance and number of changed blobs, with intervals.

    Definitions are those of `metrics.counterfactuals`: a failed search counts as not flipped and has no distance.
    """
    finite = [row for row in results.rows if not row["failed"]]
    names = [row["image"] for row in results.rows]
    by_change = [float(row["verdict"] == "flipped" and not row["gate"]) for row in results.rows]
    finite_names = [row["image"] for row in finite]
    values = {
        "flip_rate": ValuesOfImages(True, [float(row["flipped"]) for row in results.rows], names),
        "flipped_by_change": ValuesOfImages(True, by_change, names),
        distance: ValuesOfImages(False, [row["perceptual"] for row in finite], finite_names),
        "changed_blobs": ValuesOfImages(False, [float(len(row["changed_blobs"])) for row in finite], finite_names),
    }
    return {name: measure.interval(seed) for name, measure in values.items() if measure.values}


def object_changes(record: Record) -> list[ObjectChange]:
    """Return the changes of objects that a record lists. BlobexError: a field is unknown or missing."""
    try:
        fields = [{key: value for key, value in change.items() if key != "phrase"} for change in record["objects"]]
        return [ObjectChange(**change) for change in fields]
    except TypeError as error:
        raise BlobexError(f"the changed objects of {record['image']} are damaged: explain it again") from error


def stage_measures(reports: Path, models: Path) -> tuple[dict[str, dict[str, dict[str, float]]], list[str]]:
    """Read the measures of all stages by stage and setup; list what is missing."""
    measures: dict[str, dict[str, dict[str, float]]] = {}
    missing = list[str]()
    for stage, variant, folder in _metrics_folders(reports, models):
        name = f"{stage} {variant}".strip()
        for setup in SETUPS:
            path = folder / setup / variant / "measures.json"  # only where metrics.json has the headlines only
            path = path if path.is_file() else path.with_name("metrics.json")
            if path.is_file():
                measures.setdefault(name, {})[setup] = _read_measures(path)
            elif stage in REPORTING:
                command = f"make bench SETUP={setup}" if stage == "bench" else f"dvc repro {stage}@{setup}"
                missing.append(f"measures of {stage}, {setup}: run `{command}`")
    return measures, missing


def _metrics_folders(reports: Path, models: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield stage, variant (or "") and folder of all stages that write <folder>/<setup>/<variant>/metrics.json."""
    for variant in VARIANTS:
        yield "explain", variant, reports / "explain"
    for stage in REPORTING:
        yield stage, "", reports / stage
    for stage in TRAINING:
        folder = models / stage
        for variant in sorted({path.parent.name for path in folder.glob("*/*/metrics.json")}) or [""]:
            yield stage, variant, folder


def _read_measures(path: Path) -> dict[str, float]:
    try:
        content = read_json(path)
        return {name: float(value) for name, value in content.items() if isinstance(value, int | float)}
    except (OSError, ArithmeticError, ValueError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged: run its stage again") from error


def truth_tables(reports: Path) -> dict[str, str]:
    """Read the truth benchmark's table of each setup that has one."""
    return {setup: text for setup in SETUPS if (text := _tables(reports / "truth", f"{setup}/table.txt"))}


def repair_tables(reports: Path) -> dict[str, str]:
    """Read the tables of repaired models, one for each rule, of each setup that has any."""
    return {setup: text for setup in SETUPS if (text := _tables(reports / "repair", f"{setup}/*/table.txt"))}


def _tables(folder: Path, pattern: str) -> str:
    """Return the text of the files of a pattern, by their names; empty without any."""
    try:
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob(pattern)))
    except UnicodeDecodeError as error:
        raise BlobexError(f"a table.txt in {folder} is damaged: run `dvc repro {folder.name}` again") from error


def page_measures(report: Report, path: Path) -> dict[str, float]:
    """Return the figures of the overview with their intervals, and the size of the page."""
    values: dict[str, float] = {"explanations": sum(len(results.rows) for results in report.results)}
    values |= {"shown": sum(len(results.gallery) for results in report.results), "bytes": path.stat().st_size}
    for results in report.results:
        intervals = measured(results, report.distance, report.seed)
        values |= flat({f"{results.setup}_{results.variant}_{name}": value for name, value in intervals.items()})
    return values
