"""Area under the curve against scipy, and its interval against the equation it solves and its coverage."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from blobex.core.errors import BlobexError
from blobex.metrics.area_under_curve import area_under_curve, auc_interval, score_interval


def test_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    positive, negative = random.integers(0, 4, 31), random.integers(0, 3, 24)
    statistic = mannwhitneyu(positive, negative).statistic / (31 * 24)
    assert area_under_curve(positive.tolist(), negative.tolist()) == pytest.approx(statistic)
    assert area_under_curve([1, 1], [0]) == 1 and area_under_curve([0], [1]) == 0
    found = auc_interval(positive.tolist(), negative.tolist(), (31, 24))
    assert found.low < statistic < found.high and found.count == 55
    with pytest.raises(BlobexError, match="scores of both kinds"):
        area_under_curve([], [1.0])


@pytest.mark.parametrize("area", [0.02, 0.5, 0.8, 0.97])
def test_ends_solve_the_closed_form(area: float) -> None:
    """Newcombe (2006) writes the variance of method 5 in one fraction."""
    positives, negatives = 12, 20
    mean, z = (positives + negatives) / 2, norm.ppf(0.975)
    low, high = score_interval(area, positives, negatives)
    for end in (low, high):
        inner = 2 * mean - 1 - (3 * mean - 3) / ((2 - end) * (1 + end))
        variance = end * (1 - end) / (positives * negatives) * inner
        assert abs(area - end) == pytest.approx(z * math.sqrt(variance), abs=1e-8)
    assert 0 < low < area < high < 1
    assert score_interval(1 - area, positives, negatives) == pytest.approx((1 - high, 1 - low))


def test_all_right_or_all_wrong_has_a_width() -> None:
    low, high = score_interval(1.0, 3, 3)
    assert 0.45 < low < 0.55 and high == 1
    assert score_interval(0.0, 3, 3) == pytest.approx((0.0, 1 - low), abs=1e-9)
    assert score_interval(1.0, 300, 300)[0] > 0.985


@pytest.mark.parametrize("units", [8, 32])
@pytest.mark.parametrize("area", [0.7, 0.95])
def test_coverage(units: int, area: float) -> None:
    random, distance = np.random.default_rng(1), norm.ppf(area) * math.sqrt(2)
    inside = []
    for _ in range(600):
        positive, negative = random.normal(distance, 1, units), random.normal(0, 1, units)
        found = auc_interval(positive.tolist(), negative.tolist(), (units, units))
        inside.append(found.low <= area <= found.high)
    assert 0.92 < np.mean(inside) < 0.99
