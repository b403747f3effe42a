"""Example questions with the answers of every method, as one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from blobex.datasets.images import to_array
from blobex.explain.figures import Cell, Tone, grid
from blobex.truth.evaluation import EvaluatedAnswer
from blobex.truth.task import Answer, Task


def example_sheet(
    task: Task, answers: Mapping[str, Sequence[Answer]], rows: Mapping[str, Sequence[EvaluatedAnswer]], count: int
) -> np.ndarray:
    """Draw `count` questions that all methods answered, uint8 (H,W,3); those with the shortcut as a cause first.

    A green frame marks a valid counterfactual, a red frame one that flips the model alone, or neither.
    """
    fewest = min(rows.values(), key=len)
    order = sorted(range(len(fewest)), key=lambda number: (not fewest[number].planted, number))[:count]
    lines = []
    for number in order:
        query, row = to_array(task.queries[task.image_numbers[number]]), fewest[number]
        cells = [Cell(query, f"{Path(row.image).stem}\n{row.to_class}, please")]
        for method in answers:
            cells.append(_cell(answers[method][number], rows[method][number]))
        lines.append(cells)
    return grid(["query", *answers], lines)


def _cell(answer: Answer, row: EvaluatedAnswer) -> Cell:
    if not row.included:
        verdict = "reading disagrees about the query"
    elif row.valid:
        verdict = "truly so"
    else:
        verdict = "only the model says so" if row.flipped else "not flipped"
    tone: Tone = "plain" if not row.included else "good" if row.valid else "bad"
    return Cell(answer.after, f"{verdict}\n{'; '.join(row.phrases[:3]) or 'nothing seen to change'}", tone)
