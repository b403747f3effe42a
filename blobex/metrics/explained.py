"""Measures of a set of explanations, from the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blobex.core.errors import BlobexError

MEANS = ("perceptual", "l2", "proximity", "reconstruction_perceptual", "reconstruction_l2")


def explanation_measures(rows: Sequence[Mapping[str, Any]], distance: str) -> dict[str, float]:
    """Compute flip rates, the share of reconstructions that agree, and mean distances.

    Failed explanations count as not flipped, and are left out of the means. `flipped_by_change` counts the flips whose
    reconstruction passes the gate: others may be the reconstruction's effect. `flipped_full` is that of the
    counterfactuals rendered without the photo.

    Args:
        rows: Table of explanations, one row each.
        distance: Name of the perceptual distance, which replaces `perceptual` in the names of measures.

    Raises:
        BlobexError: if there are no rows.
    """
    if not rows:
        raise BlobexError("the table of explanations is empty: run `dvc repro explain` again")
    valid = [row for row in rows if not row["failed"]]
    measures = {
        "explanations": float(len(rows)),
        "failed": 1 - len(valid) / len(rows),
        "flip_rate": _share(rows, "flipped"),
        "flipped_full": _share(rows, "flipped_full"),
        "flipped_by_change": sum(row["verdict"] == "flipped" and not row["gate"] for row in rows) / len(rows),
        "gated": _share(rows, "gate"),
        "reconstruction_agrees": _share(rows, "reconstruction_agrees"),
    }
    for attribute in sorted({row["attribute"] for row in rows}):
        measures[f"flip_rate_{attribute}"] = _share([row for row in rows if row["attribute"] == attribute], "flipped")
    measures["changed_blobs"] = sum(len(row["changed_blobs"]) for row in valid) / max(len(valid), 1)
    for name in MEANS if valid else ():
        measures[name.replace("perceptual", distance)] = float(np.mean([row[name] for row in valid], dtype=np.float64))
    return measures


def _share(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(bool(row[name]) for row in rows) / len(rows)
