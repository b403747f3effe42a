"""What a set of explanations achieved, from the rows of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blobex.core.errors import BlobexError

MEANS = ("perceptual", "l2", "proximity", "reconstruction_perceptual", "reconstruction_l2")


def explanation_measures(rows: Sequence[Mapping[str, Any]], distance: str) -> dict[str, float]:
    """Flip rate in all and per attribute, the share of reconstructions that agree, and mean distances.

    `distance` is what the perceptual distance is called: it takes the place of `perceptual` in the names.

    `flipped_by_change` counts only those flips whose reconstruction stands for the query (see `gate`): the others may
    be the reconstruction's doing. `flipped_full` is of the counterfactuals rendered anew. A failed explanation counts
    as not flipped, and its distances, which need not be finite, are left out of the means.
    """
    if not rows:
        raise BlobexError("the table of explanations is empty: run `dvc repro explain` again")
    sound = [row for row in rows if not row["failed"]]
    measures = {
        "explanations": float(len(rows)),
        "failed": 1 - len(sound) / len(rows),
        "flip_rate": _share(rows, "flipped"),
        "flipped_full": _share(rows, "flipped_full"),
        "flipped_by_change": sum(row["verdict"] == "flipped" and not row["gate"] for row in rows) / len(rows),
        "gated": sum(bool(row["gate"]) for row in rows) / len(rows),
        "reconstruction_agrees": _share(rows, "reconstruction_agrees"),
    }
    for attribute in sorted({row["attribute"] for row in rows}):
        some = [row for row in rows if row["attribute"] == attribute]
        measures[f"flip_rate_{attribute}"] = _share(some, "flipped")
    measures["changed_blobs"] = sum(len(row["changed_blobs"]) for row in sound) / max(len(sound), 1)
    for name in MEANS if sound else ():
        measures[name.replace("perceptual", distance)] = float(np.mean([row[name] for row in sound], dtype=np.float64))
    return measures


def _share(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(bool(row[name]) for row in rows) / len(rows)
