"""The bootstrap interval against scipy, and how often it holds the true mean."""

import numpy as np
import pytest
import scipy.stats

from blobex.core.errors import BlobexError
from blobex.metrics.interval import Interval, interval


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("kind", ["skewed", "shares"])
def test_equals_scipys_percentile_bootstrap(kind: str, level: float) -> None:
    random = np.random.default_rng(1)
    values = random.exponential(size=80) if kind == "skewed" else (random.random(80) < 0.3).astype(float)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=level, method="percentile", rng=random
    )
    found = interval(values, seed=0, level=level, resamples=20_000)
    error = theirs.standard_error / 20  # the ends move by some hundredths of the error of the mean
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=error)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=error)
    assert found.mean == values.mean() and found.count == 80
    assert found.low < found.mean < found.high


def test_holds_the_true_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    samples = random.normal(3.0, 2.0, size=(500, 60))
    for level in (0.8, 0.95):
        found = [interval(sample, seed, level, 300) for seed, sample in enumerate(samples)]
        share = np.mean([each.low <= 3.0 <= each.high for each in found])
        assert level - 0.04 < share < level + 0.025  # a little narrow for so few values, as is known


def test_narrows_with_the_root_of_the_number_of_values() -> None:
    values = np.random.default_rng(3).normal(size=6400)
    few, many = interval(values[:400], 0), interval(values, 0)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)


def test_pairs_are_compared_by_their_differences() -> None:
    """Two ways that differ by 0.1 on every picture: the differences show it, the two intervals overlap."""
    random = np.random.default_rng(4)
    one = random.normal(size=50)
    other = one + 0.1 + 0.01 * random.normal(size=50)
    assert interval(one, 0).high > interval(other, 0).low
    assert 0.09 < interval(other - one, 0).low < interval(other - one, 0).high < 0.11


def test_the_seed_decides() -> None:
    values = np.random.default_rng(5).normal(size=30)
    assert interval(values, 1) == interval(values.tolist(), 1) != interval(values, 2)


def test_counts_in_float64() -> None:
    values = np.full(1000, 1e8, dtype=np.float32)
    values[0] += 8
    assert interval(values, 0).mean == 1e8 + 0.008


def test_one_value_and_equal_values_have_no_width() -> None:
    assert interval([0.3], 0) == Interval(0.3, 0.3, 0.3, 1)
    same = interval([0.1] * 7, 0)
    assert same.low == same.mean == same.high
    assert interval([True, True], 0) == Interval(1.0, 1.0, 1.0, 2)


def test_what_has_no_mean_is_refused() -> None:
    for values in ([], [[1.0, 2.0]], 3.0):
        with pytest.raises(BlobexError, match="a row of one value or more"):
            interval(values, 0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(BlobexError, match="not finite"):
            interval([1.0, bad], 0)
    for level, resamples in ((0.0, 10), (1.0, 10), (0.95, 0)):
        with pytest.raises(BlobexError, match="is no interval"):
            interval([1.0], 0, level, resamples)
