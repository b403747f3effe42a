"""What the report page is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from blobex.core.errors import BlobexError
from blobex.explain.explanation import Explanation
from blobex.metrics.interval import Interval, interval
from blobex.perception.differences import ObjectChange

Painted = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Results:
    """The explanations of one setup and variant."""

    setup: str
    variant: str
    rows: Sequence[Mapping[str, Any]]  # of the table
    records: Sequence[Explanation]  # all of them
    shown: Sequence[Explanation]  # those of the gallery
    painted: Sequence[Painted]  # of those shown: which blob paints each point (H,W) before and after; -1: background
    outputs: Sequence[str]  # what the model's scores are called


@dataclass(frozen=True)
class Report:
    """All that the page tells."""

    results: Sequence[Results]
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]  # stage to setup to its measures
    truth: Mapping[str, str]  # setup to the table of the truth benchmark
    missing: Sequence[str]  # what could not be told, and what to run for it
    distance: str  # name of the perceptual distance
    tracking: str | None  # MLflow's store; None where nothing is tracked
    seed: int  # of the bootstrap


def measured(rows: Sequence[Mapping[str, Any]], distance: str, seed: int) -> dict[str, Interval]:
    """Flip rate, flips that are the change's own, perceptual distance and changed blobs, over a table's rows.

    Names and rules are those of `metrics.explained`: a failure is a row that did not flip, and has no distance.
    """
    sound = [row for row in rows if not row["failed"]]
    values = {
        "flip_rate": [bool(row["flipped"]) for row in rows],
        "flipped_by_change": [row["verdict"] == "flipped" and not row["gate"] for row in rows],
        distance: [row["perceptual"] for row in sound],
        "changed_blobs": [len(row["changed_blobs"]) for row in sound],
    }
    return {name: interval(each, seed) for name, each in values.items() if each}


def object_changes(record: Explanation) -> list[ObjectChange]:
    """What the parser sees changed, as it was written down."""
    try:
        return [ObjectChange(**{key: each[key] for key in each if key != "phrase"}) for each in record.objects]
    except TypeError as error:
        raise BlobexError(f"what changed in {record.image} is told in another form: explain it again") from error
