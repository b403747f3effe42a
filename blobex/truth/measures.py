"""Measures of evaluated answers, each with its interval and number of values.

A planted shortcut is detected by phrases that occur more often than in explanations of an honest model. A phrase here
is the wanted decision with a change in general words: "right: vehicle on the left removed".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from blobex.metrics.area_under_curve import auc_interval
from blobex.metrics.interval import Interval, ValuesOfImages, share_interval
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
    own = {phrase for phrase in excess if is_shortcut(phrase, rule)}
    best = max((excess[phrase] for phrase in own), default=0.0)
    if best <= 0:
        return None
    return 1 + sum(value >= best for phrase, value in excess.items() if phrase not in own)


def is_shortcut(phrase: str, rule: str) -> bool:
    """Return whether a phrase says that a rule's shortcut decides an action that the rule refuses because of it."""
    wanted, change = phrase.split(": ", 1)
    return wanted.removeprefix("not ") in RULES[rule].refuses and names_shortcut(rule, change)


def _phrase_shares(rows: Sequence[EvaluatedAnswer]) -> dict[str, float]:
    totals = Counter(row.to_class for row in rows)
    counts = Counter((row.to_class, phrase) for row in rows for phrase in row.phrases)
    return {f"{wanted}: {phrase}": count / totals[wanted] for (wanted, phrase), count in counts.items()}


def measures(rows: Rows, seed: int) -> Measures:
    """Measure one method's answers about one model; measures without values are left out.

    Validity is also given per direction: a spoilt image often reads as one where more is refused, so only flips from
    refused to allowed show that a method does more than spoil.
    """
    included = [row for row in rows if row.included]
    flipped = [row for row in included if row.flipped]
    values = {
        "flipped": _values(rows, lambda row: row.flipped),
        "validity": _values(included, lambda row: row.valid),
        "flip_validity": _values(flipped, lambda row: row.valid),
        "flip_validity_allowed": _values([row for row in flipped if row.to_allowed], lambda row: row.valid),
        "flip_validity_refused": _values([row for row in flipped if not row.to_allowed], lambda row: row.valid),
        "cause_recall": _values([row for row in rows if row.recall is not None], lambda row: row.recall, share=False),
        "cause_precision": _values(
            [row for row in rows if row.precision is not None], lambda row: row.precision, share=False
        ),
        "reconstruction_agrees": _values([row for row in rows if row.agrees is not None], lambda row: row.agrees),
        "witness_flip": _values([row for row in rows if row.witness is not None], lambda row: row.witness),
    }
    return {name: measure.interval(seed) for name, measure in values.items() if measure.values}


def _values(rows: Rows, value: Callable[[EvaluatedAnswer], float | None], share: bool = True) -> ValuesOfImages:
    """Return the value of each row; None counts as 0."""
    return ValuesOfImages(share, [float(value(row) or 0) for row in rows], [row.image for row in rows])


def detection(rows: Rows, honest: Rows, rule: str) -> Measures:
    """Measure how well explanations tell a model from the honest one; empty if either has none to compare."""
    own, others = (flips(answers, RULES[rule].refuses) for answers in (rows, honest))
    if not own or not others:
        return {}
    own_scores, other_scores = shortcut_scores(own, rule), shortcut_scores(others, rule)
    own_images, other_images = ([row.image for row in answers] for answers in (own, others))
    units = len(set(own_images)), len(set(other_images))
    return {
        "shortcut_share": share_interval(own_scores, own_images),
        "honest_share": share_interval(other_scores, other_images),
        "auc_explanations": auc_interval(own_scores, other_scores, units),
    }


def detection_over_seeds(models: Sequence[Rows], honest: Sequence[Rows], rule: str) -> Measures:
    """Measure detection over small models, each scored by the share of its explanations that name the shortcut.

    A model without explanations of the actions in question scores 0: nothing reveals its shortcut. The shares are of
    all models' explanations, those of one model resampled together.
    """
    own, others = (
        [shortcut_scores(flips(rows, RULES[rule].refuses), rule) or [0.0] for rows in group]
        for group in (models, honest)
    )
    own_scores, other_scores = ([float(np.mean(scores)) for scores in group] for group in (own, others))
    return {
        "shortcut_share_seeds": _share_of_models(own),
        "honest_share_seeds": _share_of_models(others),
        "auc_seeds": auc_interval(own_scores, other_scores, (len(own), len(others))),
    }


def _share_of_models(scores: Sequence[Sequence[float]]) -> Interval:
    """Return the share of 1 among the scores of each model; models are the independent units."""
    models = [str(number) for number, of_model in enumerate(scores) for _ in of_model]
    return share_interval([score for of_model in scores for score in of_model], models)


def rank(rows: Rows, honest: Rows, rule: str) -> Rank:
    """Return the shortcut's rank among the phrases about all actions, and their number."""
    excess = phrase_excess(*(flips(answers, ACTIONS) for answers in (rows, honest)))
    return shortcut_rank(excess, rule), len(excess)
