"""Measures of evaluated answers, each with its interval and number of values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blobex.metrics.interval import Interval, interval
from blobex.scenes.rules import ACTIONS, RULES
from blobex.truth.detection import auc_interval, flips, phrase_excess, shortcut_rank, shortcut_scores
from blobex.truth.evaluation import EvaluatedAnswer

Rows = Sequence[EvaluatedAnswer]
Measures = dict[str, Interval]
Rank = tuple[int | None, int]  # of the shortcut among the phrases; number of phrases
TITLES = {  # in table.txt
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


def measures(rows: Rows, seed: int) -> Measures:
    """Measure one method's answers about one model; measures without values are left out.

    Validity is also given per direction: a spoilt image often reads as one where more is refused, so only flips from
    refused to allowed show that a method does more than spoil. Explanations count as independent, though several may
    be of one image.
    """
    included = [row for row in rows if row.included]
    flipped = [row for row in included if row.flipped]
    values: dict[str, list[float]] = {
        "flipped": [float(row.flipped) for row in rows],
        "validity": [float(row.valid or False) for row in included],
        "flip_validity": [float(row.valid or False) for row in flipped],
        "flip_validity_allowed": [float(row.valid or False) for row in flipped if row.to_allowed],
        "flip_validity_refused": [float(row.valid or False) for row in flipped if not row.to_allowed],
        "cause_recall": [row.recall for row in rows if row.recall is not None],
        "cause_precision": [row.precision for row in rows if row.precision is not None],
        "reconstruction_agrees": [float(row.agrees) for row in rows if row.agrees is not None],
    }
    return {name: interval(numbers, seed) for name, numbers in values.items() if numbers}


def detection(rows: Rows, honest: Rows, rule: str, seed: int) -> Measures:
    """Measure how well explanations tell a model from the honest one; empty if either has none to compare."""
    own, others = (flips(answers, RULES[rule].refuses) for answers in (rows, honest))
    if not own or not others:
        return {}
    own_scores, other_scores = shortcut_scores(own, rule), shortcut_scores(others, rule)
    return {
        "shortcut_share": interval(own_scores, seed),
        "honest_share": interval(other_scores, seed),
        "auc_explanations": auc_interval(own_scores, other_scores, seed),
    }


def detection_over_seeds(models: Sequence[Rows], honest: Sequence[Rows], rule: str, seed: int) -> Measures:
    """Measure detection over small models, each scored by the share of its explanations that name the shortcut.

    A model without explanations of the actions in question scores 0: nothing reveals its shortcut.
    """
    own, others = (
        [float(np.mean(shortcut_scores(flips(rows, RULES[rule].refuses), rule) or [0.0])) for rows in group]
        for group in (models, honest)
    )
    return {
        "shortcut_share_seeds": interval(own, seed),
        "honest_share_seeds": interval(others, seed),
        "auc_seeds": auc_interval(own, others, seed),
    }


def rank(rows: Rows, honest: Rows, rule: str) -> Rank:
    """Return the shortcut's rank among the phrases about all actions, and their number."""
    excess = phrase_excess(*(flips(answers, ACTIONS) for answers in (rows, honest)))
    return shortcut_rank(excess, rule), len(excess)
