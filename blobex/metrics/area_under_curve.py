"""Area under the receiver operating characteristic curve, and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri

from blobex.core.errors import BlobexError
from blobex.metrics.interval import LEVEL, Interval

EDGE = 1e-12  # distance from 0 and 1, where the variance vanishes


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the probability that a positive scores above a negative, ties half (Mann and Whitney, 1947)."""
    if not len(positive) or not len(negative):
        raise BlobexError("an area under the curve needs scores of both kinds: explain more images")
    one, other = np.asarray(positive, dtype=np.float64)[:, None], np.asarray(negative, dtype=np.float64)[None]
    return float(((one > other) + 0.5 * (one == other)).mean())


def score_interval(area: float, positives: int, negatives: int, level: float = LEVEL) -> tuple[float, float]:
    """Compute the score interval of an area among independent positives and negatives, within [0, 1].

    It holds the areas t with |area - t| <= z * sqrt(variance(t)), by the variance for exponential scores (Hanley and
    McNeil, Radiology 1982) with both numbers in its inner terms replaced by their mean (Newcombe, Statistics in
    Medicine 2006, part 2, method 5). Unlike a bootstrap interval it has a width if all positives score highest.

    >>> low, high = score_interval(1.0, 3, 3)
    >>> round(low, 2), high
    (0.5, 1.0)
    """
    z, others = float(ndtri((1 + level) / 2)), (positives + negatives) / 2 - 1

    def excess(true: float) -> float:
        inner = true * (1 - true) + others * (true / (2 - true) + 2 * true**2 / (1 + true) - 2 * true**2)
        return abs(area - true) - z * math.sqrt(max(inner, 0.0) / (positives * negatives))

    low = brentq(excess, EDGE, min(area, 1 - EDGE)) if area > EDGE else 0.0
    high = brentq(excess, max(area, EDGE), 1 - EDGE) if area < 1 - EDGE else 1.0
    return float(low), float(high)


def auc_interval(positive: Sequence[float], negative: Sequence[float], units: tuple[int, int]) -> Interval:
    """Return `area_under_curve` with its `score_interval`.

    `units` are the numbers of independent units among positives and negatives: of images if several scores belong to
    one, which at most makes the interval too wide.
    """
    area = area_under_curve(positive, negative)
    return Interval(area, *score_interval(area, *units), len(positive) + len(negative))
