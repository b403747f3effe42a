"""Bootstrap interval against scipy, and its coverage of the true mean."""

import numpy as np
import pytest
import scipy.stats

from blobex.core.errors import BlobexError
from blobex.metrics.interval import Interval, interval


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("kind", ["skewed", "shares"])
def test_equals_percentile_bootstrap_of_scipy(kind: str, level: float) -> None:
    random = np.random.default_rng(1)
    values = random.exponential(size=80) if kind == "skewed" else (random.random(80) < 0.3).astype(float)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=level, method="percentile", rng=random
    )
    result = interval(values, seed=0, level=level, resamples=20_000)
    error = expected.standard_error / 20  # resampling moves the bounds by some hundredths of the error
    assert result.low == pytest.approx(expected.confidence_interval.low, abs=error)
    assert result.high == pytest.approx(expected.confidence_interval.high, abs=error)
    assert result.mean == values.mean() and result.count == 80
    assert result.low < result.mean < result.high


def test_coverage_of_the_true_mean() -> None:
    random = np.random.default_rng(2)
    samples = random.normal(3.0, 2.0, size=(500, 60))
    for level in (0.8, 0.95):
        intervals = [interval(sample, seed, level, 300) for seed, sample in enumerate(samples)]
        share = np.mean([each.low <= 3.0 <= each.high for each in intervals])
        assert level - 0.04 < share < level + 0.025  # percentile intervals of few values are a little too narrow


def test_narrows_with_the_root_of_the_number_of_values() -> None:
    values = np.random.default_rng(3).normal(size=6400)
    few, many = interval(values[:400], 0), interval(values, 0)
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)


def test_paired_comparison_by_differences() -> None:
    """Two methods differ by 0.1 on every image: the differences show it although the two intervals overlap."""
    random = np.random.default_rng(4)
    one = random.normal(size=50)
    other = one + 0.1 + 0.01 * random.normal(size=50)
    assert interval(one, 0).high > interval(other, 0).low
    assert 0.09 < interval(other - one, 0).low < interval(other - one, 0).high < 0.11


def test_results_follow_the_seed() -> None:
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


def test_invalid_input_raises() -> None:
    for values in ([], [[1.0, 2.0]], 3.0):
        with pytest.raises(BlobexError, match="a row of one value or more"):
            interval(values, 0)
    for bad in (float("nan"), float("inf")):
        with pytest.raises(BlobexError, match="not finite"):
            interval([1.0, bad], 0)
    for level, resamples in ((0.0, 10), (1.0, 10), (0.95, 0)):
        with pytest.raises(BlobexError, match="is no interval"):
            interval([1.0], 0, level, resamples)
