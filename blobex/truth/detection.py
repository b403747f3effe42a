"""Whether explanations bring a planted shortcut to light: what do they say that an honest model's do not?

A phrase is a change in general words behind what the change is for: "right: vehicle on the left removed".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from blobex.core.errors import BlobexError
from blobex.metrics.interval import LEVEL, RESAMPLES, Interval
from blobex.scenes.rules import RULES
from blobex.truth.judge import Row

# The beginnings of what a change of each rule's shortcut is called, for the actions that the rule refuses by it.
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "biased": ("vehicle on the left ", "cycle on the left "),
    "night": ("time ",),
    "verge": ("verge ", "terrain ", "sidewalk "),
}


def speaks_of(rule: str, phrase: str) -> bool:
    """Whether a change in general words is about a rule's shortcut."""
    return phrase.startswith(SUBJECTS[rule])


def told(rows: Sequence[Row], attributes: Sequence[str]) -> list[Row]:
    """The rows that explain something: questions about `attributes` whose answer flips."""
    return [row for row in rows if row.flipped and row.attribute in attributes]


def scores(rows: Sequence[Row], rule: str) -> list[float]:
    """1 for each explanation that speaks of the shortcut, 0 for each other."""
    return [float(any(speaks_of(rule, phrase) for phrase in row.phrases)) for row in rows]


def excess(rows: Sequence[Row], honest: Sequence[Row]) -> dict[str, float]:
    """By how much more often each phrase occurs than among the honest model's explanations; the most striking first.

    The share is taken among explanations that ask for the same, as models differ in what they refuse.
    """
    mine, others = _shares(rows), _shares(honest)
    more = {phrase: mine.get(phrase, 0.0) - others.get(phrase, 0.0) for phrase in mine.keys() | others.keys()}
    return dict(sorted(more.items(), key=lambda item: (-item[1], item[0])))


def shortcut_rank(found: Mapping[str, float], rule: str) -> int | None:
    """The place, from 1, of the first of the shortcut's phrases in `excess`; phrases that occur alike share the worst.

    Its phrases speak of it, for an action that it is about. None if none of them occurs more often than with the honest
    model.
    """
    own = {phrase for phrase in found if _is_own(phrase, rule)}
    best = max((found[phrase] for phrase in own), default=0.0)
    if best <= 0:
        return None
    return 1 + sum(more >= best for phrase, more in found.items() if phrase not in own)


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann and Whitney, 1947)."""
    if not len(positive) or not len(negative):
        raise BlobexError("an area under the curve needs scores of both kinds: explain more images")
    one, other = np.asarray(positive, dtype=np.float64)[:, None], np.asarray(negative, dtype=np.float64)[None]
    return float(((one > other) + 0.5 * (one == other)).mean())


def auc_interval(positive: Sequence[float], negative: Sequence[float], seed: int) -> Interval:
    """`area_under_curve` with its percentile bootstrap interval: both kinds are drawn anew; the count is of both."""
    random, mean = np.random.default_rng(seed), area_under_curve(positive, negative)
    drawn = [
        area_under_curve(*(random.choice(some, len(some)).tolist() for some in (positive, negative)))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high), len(positive) + len(negative))


def _is_own(phrase: str, rule: str) -> bool:
    wanted, change = phrase.split(": ", 1)
    return wanted.removeprefix("not ") in RULES[rule].refuses and speaks_of(rule, change)


def _shares(rows: Sequence[Row]) -> dict[str, float]:
    asked = Counter(row.to_class for row in rows)
    counts = Counter((row.to_class, phrase) for row in rows for phrase in row.phrases)
    return {f"{wanted}: {phrase}": count / asked[wanted] for (wanted, phrase), count in counts.items()}
