"""Detection of planted shortcuts: phrases that occur more often than in explanations of an honest model.

A phrase here is the wanted decision with a change in general words: "right: vehicle on the left removed".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from blobex.core.errors import BlobexError
from blobex.metrics.interval import LEVEL, RESAMPLES, Interval
from blobex.scenes.rules import RULES
from blobex.truth.evaluation import EvaluatedAnswer

# How phrases about each rule's shortcut begin, for the actions that the rule refuses because of it.
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "biased": ("vehicle on the left ", "cycle on the left "),
    "night": ("time ",),
    "verge": ("verge ", "terrain ", "sidewalk "),
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
