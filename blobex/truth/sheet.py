"""Some questions with every method's answer, as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from blobex.datasets.images import to_array
from blobex.explain.figures import Cell, Tone, grid
from blobex.truth.judge import Row
from blobex.truth.task import Answer, Task


def sheet(
    task: Task, answers: Mapping[str, Sequence[Answer]], rows: Mapping[str, Sequence[Row]], count: int
) -> np.ndarray:
    """uint8 (H,W,3): the query and the answers to `count` questions; those with the shortcut as a cause come first.

    Only questions that all methods answered are shown. A frame is green where the counterfactual is truly otherwise,
    and red where only the model thinks so, or nobody.
    """
    any_rows = min(rows.values(), key=len)
    order = sorted(range(len(any_rows)), key=lambda number: (not any_rows[number].planted, number))[:count]
    lines = []
    for number in order:
        query, first = to_array(task.queries[task.pictures[number]]), any_rows[number]
        cells = [Cell(query, f"{Path(first.image).stem}\n{first.to_class}, please")]
        for method in answers:
            cells.append(_cell(answers[method][number], rows[method][number]))
        lines.append(cells)
    return grid(["query", *answers], lines)


def _cell(answer: Answer, row: Row) -> Cell:
    if not row.included:
        verdict = "reading disagrees about the query"
    elif row.valid:
        verdict = "truly so"
    else:
        verdict = "only the model says so" if row.flipped else "not flipped"
    tone: Tone = "plain" if not row.included else "good" if row.valid else "bad"
    return Cell(answer.after, f"{verdict}\n{'; '.join(row.phrases[:3]) or 'nothing seen to change'}", tone)
