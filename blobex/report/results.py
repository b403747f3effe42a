"""Content of the report page: explanations, measures and tables, as the stages wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blobex.core.errors import BlobexError
from blobex.metrics.interval import Interval, interval
from blobex.perception.differences import ObjectChange

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


def measured(results: Results, distance: str, seed: int) -> dict[str, Interval]:
    """Compute flip rate, flips by the change, perceptual distance and number of changed blobs, with intervals.

    Definitions are those of `metrics.counterfactuals`: a failed search counts as not flipped and has no distance.
    """
    finite = [row for row in results.rows if not row["failed"]]
    values = {
        "flip_rate": [bool(row["flipped"]) for row in results.rows],
        "flipped_by_change": [row["verdict"] == "flipped" and not row["gate"] for row in results.rows],
        distance: [row["perceptual"] for row in finite],
        "changed_blobs": [len(row["changed_blobs"]) for row in finite],
    }
    return {name: interval(numbers, seed) for name, numbers in values.items() if numbers}


def object_changes(record: Record) -> list[ObjectChange]:
    """Return the changes of objects that a record lists. BlobexError: a field is unknown or missing."""
    try:
        return [
            ObjectChange(**{key: value for key, value in fields.items() if key != "phrase"})
            for fields in record["objects"]
        ]
    except TypeError as error:
        raise BlobexError(f"the changed objects of {record['image']} are damaged: explain it again") from error
