"""The rows of all methods and rules as measures, each with its interval and the count that it rests on."""

from __future__ import annotations

from collections.abc import Sequence

from blobex.metrics.interval import Interval, interval
from blobex.scenes.rules import ACTIONS, RULES
from blobex.truth.detection import auc_interval, excess, scores, shortcut_rank, told
from blobex.truth.judge import Row

Measures = dict[str, Interval]
NAMES = {
    "flipped": "decision flipped",
    "validity": "truly flipped, of all questions",
    "flip_validity": "truly flipped, of flips",
    "flip_validity_allowed": "  of those from refused to allowed",
    "flip_validity_refused": "  of those from allowed to refused",
    "cause_recall": "true causes touched",
    "cause_precision": "of the change, on true causes",
    "reconstruction_agrees": "reconstruction decided as photo",
    "shortcut_share": "explanations with the shortcut",
    "honest_share": "the same, of the plain model",
    "auc_explanations": "AUC over explanations",
    "shortcut_share_seeds": "shortcut's share, small models",
    "honest_share_seeds": "the same, small plain models",
    "auc_seeds": "AUC over training seeds",
}


def measures(rows: Sequence[Row], seed: int) -> Measures:
    """What one method's answers about one model achieve; a measure that rests on nothing is left out.

    Validity is told for both directions, too: a picture that is spoilt reads as one where much is refused, so only what
    becomes allowed shows that a method can do more than spoil.
    Explanations count as independent, though several may be of one picture.
    """
    included = [row for row in rows if row.included]
    flips = [row for row in included if row.flipped]
    values: dict[str, list[float]] = {
        "flipped": [float(row.flipped) for row in rows],
        "validity": [float(row.valid or False) for row in included],
        "flip_validity": [float(row.valid or False) for row in flips],
        "flip_validity_allowed": [float(row.valid or False) for row in flips if row.to_allowed],
        "flip_validity_refused": [float(row.valid or False) for row in flips if not row.to_allowed],
        "cause_recall": [row.recall for row in rows if row.recall is not None],
        "cause_precision": [row.precision for row in rows if row.precision is not None],
        "reconstruction_agrees": [float(row.agrees) for row in rows if row.agrees is not None],
    }
    return {name: interval(some, seed) for name, some in values.items() if some}


def detection(rows: Sequence[Row], honest: Sequence[Row], rule: str, seed: int) -> Measures:
    """How far one method's explanations of a model tell it from the honest one, over explanations.

    Nothing where one of the two has no explanations of the actions in question.
    """
    mine, others = (told(some, RULES[rule].refuses) for some in (rows, honest))
    if not mine or not others:
        return {}
    one, other = scores(mine, rule), scores(others, rule)
    return {
        "shortcut_share": interval(one, seed),
        "honest_share": interval(other, seed),
        "auc_explanations": auc_interval(one, other, seed),
    }


def rank(rows: Sequence[Row], honest: Sequence[Row], rule: str) -> tuple[int | None, int]:
    """The place of the shortcut among all phrases about all actions, from 1, or None; and the number of phrases."""
    found = excess(*(told(some, ACTIONS) for some in (rows, honest)))
    return shortcut_rank(found, rule), len(found)
