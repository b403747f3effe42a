"""Overview grids of explanations: count image's query, reconstruction and counterfactuals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blobex.datasets.images import write_png
from blobex.explain.explanation import Explanation
from blobex.explain.figures import Cell, Tone, grid

IMAGES_PER_FILE = 16


def snapshot(records: Sequence[Explanation], count: int) -> np.ndarray:
    """Draw a grid, uint8 (H,W,3), of explanations in their order, `count` per image."""
    columns = [{_title(record) for record in records[column::count]} for column in range(count)]
    titles = ["query", "reconstruction", *("/".join(sorted(names)) for names in columns)]
    rows = []
    for start in range(0, len(records), count):
        group = records[start : start + count]
        first = [record for record in group if not record.number]
        before = ", ".join(f"{record.attribute} {record.score_before:.2f}" for record in first)
        after = ", ".join(f"{record.attribute} {record.score_reconstruction:.2f}" for record in first)
        query = Cell(group[0].query, f"{Path(group[0].image).name}\n{before}")
        rows.append([query, Cell(group[0].reconstruction, after), *map(_counterfactual_cell, group)])
    return grid(titles, rows)


def write_snapshots(folder: Path, records: Sequence[Explanation], images: int) -> None:
    """Write snapshot_<i>.png in 256 colours, with IMAGES_PER_FILE images each."""
    count = len(records) // images
    for number, first in enumerate(range(0, images, IMAGES_PER_FILE)):
        grid_ = snapshot(records[first * count : (first + IMAGES_PER_FILE) * count], count)
        write_png(folder / f"snapshot_{number}.png", grid_, colours=256)


def _title(record: Explanation) -> str:
    return f"{record.attribute} {record.number + 1}" if record.number else record.attribute


def _counterfactual_cell(record: Explanation) -> Cell:
    tone: Tone = "good" if record.verdict == "flipped" else "bad"
    blobs = f": {', '.join(record.changed_blobs)}" if record.changed_blobs else ""
    scores = f"{record.attribute} {record.score_before:.2f} -> {record.score_after:.2f}"
    return Cell(record.counterfactual, f"{scores}\n{record.verdict}{blobs}", tone)
