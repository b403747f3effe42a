"""Results of the truth benchmark over all models and methods."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blobex.scenes.rules import PLAIN
from blobex.truth.evaluation import EvaluatedAnswer
from blobex.truth.measures import Measures, Rank, detection, measures, rank

RowsByMethod = dict[str, list[EvaluatedAnswer]]
OURS_SAME = "ours_same"  # ours on the images of the published method, where those are fewer


@dataclass(frozen=True)
class TruthResults:
    """Evaluated answers and their measures by rule, and within a rule by method or OURS_SAME."""

    rows: dict[str, RowsByMethod]
    measures: dict[str, dict[str, Measures]]
    ranks: dict[str, dict[str, Rank]]
    examples: dict[str, np.ndarray]  # by rule, uint8 (H,W,3)


def summarise(rows: dict[str, RowsByMethod], examples: dict[str, np.ndarray], seed: int) -> TruthResults:
    """Measure all methods on all models; each model with a shortcut is compared with the plain one."""
    measured = {
        rule: {method: measures(answers, seed) for method, answers in methods.items()} for rule, methods in rows.items()
    }
    ranks: dict[str, dict[str, Rank]] = {rule: {} for rule in rows}
    for rule in [name for name in rows if name != PLAIN.name]:
        for method, answers in rows[rule].items():
            honest = rows[PLAIN.name][method]
            measured[rule][method] |= detection(answers, honest, rule, seed)
            ranks[rule][method] = rank(answers, honest, rule)
    return TruthResults(rows, measured, ranks, examples)


def with_ours_on_same_images(rows: RowsByMethod) -> RowsByMethod:
    """Add OURS_SAME if the published method answered fewer questions than ours."""
    if "ours" not in rows or len(rows["ours"]) == len(rows.get("published", rows["ours"])):
        return rows
    images = {row.image for row in rows["published"]}
    return rows | {OURS_SAME: [row for row in rows["ours"] if row.image in images]}
