"""Measures of evaluated answers, each with its interval and number of values.

A planted shortcut is detected by phrases that occur more often than in explanations of an honest model. A phrase here
is the wanted decision with a change in general words: "right: vehicle on the left removed".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from blobex.core.errors import BlobexError
from blobex.metrics.interval import LEVEL, RESAMPLES, Interval, interval, share_interval
from blobex.scenes.rules import ACTIONS, RULES
from blobex.truth.evaluation import EvaluatedAnswer

# How phrases about each rule's shortcut begin, for the actions that the rule refuses because of it.
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "biased": ("vehicle on the left ", "cycle on the left "),
    "night": ("time ",),
    "verge": ("verge ", "terrain ", "sidewalk "),
}
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
    "witness_flip": "flips that the witness shares",
    "reconstruction_agrees": "reconstruction decided as photo",
    "shortcut_share": "explanations with the shortcut",
    "honest_share": "the same, of the plain model",
    "auc_explanations": "AUC over explanations",
    "shortcut_share_seeds": "shortcut's share, small models",
    "honest_share_seeds": "the same, small plain models",
    "auc_seeds": "AUC over training seeds",
}


def names_shortcut(rule: str, phrase: str) -> bool:
    """Return True if a change in general words is about a rule's shortcut."""
    return phrase.startswith(SUBJECTS[rule])


def flips(rows: Sequence[EvaluatedAnswer], attributes: Sequence[str]) -> list[EvaluatedAnswer]:
    """Return the rows about `attributes` that flip the decision."""
    return [row for row in rows if row.flipped and row.attribute in attributes]


def shortcut_scores(rows: Sequence[EvaluatedAnswer], rule: str) -> list[float]:
    """Return 1 for each explanation that names the shortcut, 0 for each other."""
    return [float(any(names_shortcut(rule, phrase) for phrase in row.phrases)) for row in rows]


def phrase_excess(rows: Sequence[EvaluatedAnswer], honest: Sequence[EvaluatedAnswer]) -> dict[str, float]:
    """Return each phrase's share minus its share for the honest model, largest first.

    Shares are among explanations with the same wanted decision, as models differ in what they refuse.
    """
    own, others = _phrase_shares(rows), _phrase_shares(honest)
    excess = {phrase: own.get(phrase, 0.0) - others.get(phrase, 0.0) for phrase in own.keys() | others.keys()}
    return dict(sorted(excess.items(), key=lambda item: (-item[1], item[0])))


def shortcut_rank(excess: Mapping[str, float], rule: str) -> int | None:
    """Return the rank, from 1, of the shortcut's first phrase by `phrase_excess`; ties get the worst rank.

    Only phrases about an action that the shortcut refuses count. None if no such phrase occurs more often than for
    the honest model.
    """
    own = {phrase for phrase in excess if _is_shortcut(phrase, rule)}
    best = max((excess[phrase] for phrase in own), default=0.0)
    if best <= 0:
        return None
    return 1 + sum(value >= best for phrase, value in excess.items() if phrase not in own)


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the probability that a positive scores above a negative, ties half (Mann and Whitney, 1947)."""
    if not len(positive) or not len(negative):
        raise BlobexError("an area under the curve needs scores of both kinds: explain more images")
    one, other = np.asarray(positive, dtype=np.float64)[:, None], np.asarray(negative, dtype=np.float64)[None]
    return float(((one > other) + 0.5 * (one == other)).mean())


def auc_interval(positive: Sequence[float], negative: Sequence[float], seed: int) -> Interval:
    """Return `area_under_curve` with its percentile bootstrap interval; both kinds are resampled and counted."""
    random, mean = np.random.default_rng(seed), area_under_curve(positive, negative)
    resampled = [
        area_under_curve(*(random.choice(scores, len(scores)).tolist() for scores in (positive, negative)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), len(positive) + len(negative))


def _is_shortcut(phrase: str, rule: str) -> bool:
    wanted, change = phrase.split(": ", 1)
    return wanted.removeprefix("not ") in RULES[rule].refuses and names_shortcut(rule, change)


def _phrase_shares(rows: Sequence[EvaluatedAnswer]) -> dict[str, float]:
    totals = Counter(row.to_class for row in rows)
    counts = Counter((row.to_class, phrase) for row in rows for phrase in row.phrases)
    return {f"{wanted}: {phrase}": count / totals[wanted] for (wanted, phrase), count in counts.items()}


def measures(rows: Rows, seed: int) -> Measures:
    """Measure one method's answers about one model; measures without values are left out.

    Validity is also given per direction: a spoilt image often reads as one where more is refused, so only flips from
    refused to allowed show that a method does more than spoil. Explanations count as independent, though several may
    be of one image; in the interval of `witness_flip` they do not.
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
    measured = {name: interval(numbers, seed) for name, numbers in values.items() if numbers}
    witnessed = [row for row in rows if row.witness is not None]
    if witnessed:
        shared = [float(row.witness or False) for row in witnessed]
        measured["witness_flip"] = share_interval(shared, [row.image for row in witnessed])
    return measured


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
