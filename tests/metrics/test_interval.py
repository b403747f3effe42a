"""Bootstrap interval against scipy, and its coverage of the true mean."""

import numpy as np
import pytest
import scipy.stats

from blobex.core.errors import BlobexError
from blobex.metrics.interval import (
    Interval,
    ValuesOfImages,
    difference_interval,
    flat_intervals,
    interval,
    ratio_interval,
    share_interval,
    wilson,
)


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


@pytest.mark.parametrize(("hits", "count"), [(0, 7), (1, 7), (18, 48), (110, 127), (32, 32)])
def test_wilson_equals_scipy(hits: int, count: int) -> None:
    expected = scipy.stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_share_of_single_values_is_wilson_and_of_copies_that_of_images() -> None:
    values, names = [1.0] * 9 + [0.0] * 5, [str(number) for number in range(14)]
    alone = share_interval(values, names)
    assert (alone.low, alone.high) == pytest.approx(wilson(9 / 14, 14)) and alone.count == 14
    copies = share_interval(values * 4, names * 4)
    assert (copies.low, copies.high) == pytest.approx(wilson(9 / 14, 14)) and copies.count == 56
    all_ones = share_interval([1.0] * 128, [str(number % 32) for number in range(128)])
    assert (all_ones.low, all_ones.high) == pytest.approx(wilson(1, 32))
    assert share_interval([0.0, 0.0], ["a", "b"]).low == 0


def test_coverage_of_a_share_with_several_values_of_an_image() -> None:
    """Answers about an image agree more often than by chance; intervals that ignore it are too narrow."""
    random = np.random.default_rng(7)
    names = np.repeat(np.arange(32), 4).astype(str).tolist()
    inside, ignoring = [], []
    for _ in range(400):
        rates = np.repeat(random.beta(1.6, 0.4, size=32), 4)  # the mean is 0.8
        values = (random.random(128) < rates).astype(float)
        found = share_interval(values.tolist(), names)
        low, high = wilson(values.mean(), 128)
        inside.append(found.low <= 0.8 <= found.high)
        ignoring.append(low <= 0.8 <= high)
    assert 0.92 < np.mean(inside) < 0.985 and np.mean(ignoring) < 0.88


def test_ratio_resamples_images_as_scipy_does() -> None:
    random = np.random.default_rng(8)
    values, bases = random.exponential(size=(2, 90)) + 0.5
    names = [str(number // 3) for number in range(90)]
    sums, below = values.reshape(30, 3).sum(1), bases.reshape(30, 3).sum(1)
    expected = scipy.stats.bootstrap(
        (sums, below),
        lambda one, other, axis: one.sum(axis) / other.sum(axis),
        n_resamples=20_000,
        method="percentile",
        paired=True,
        vectorized=True,
        rng=random,
    )
    result = ratio_interval(values.tolist(), bases.tolist(), names, seed=0, resamples=20_000)
    error = expected.standard_error / 20
    assert result.low == pytest.approx(expected.confidence_interval.low, abs=error)
    assert result.high == pytest.approx(expected.confidence_interval.high, abs=error)
    assert result.mean == pytest.approx(values.sum() / bases.sum()) and result.count == 90


def test_copies_of_values_do_not_narrow_the_interval_of_a_mean() -> None:
    values, names = np.random.default_rng(9).normal(size=20).tolist(), [str(number) for number in range(20)]
    once, often = (ratio_interval(values * n, [1.0] * 20 * n, names * n, seed=0) for n in (1, 6))
    assert (once.low, once.high, once.mean) == pytest.approx((often.low, often.high, often.mean))
    assert ValuesOfImages(False, values, names).interval(0) == once


def test_invalid_values_of_images_raise() -> None:
    with pytest.raises(BlobexError, match="2 values of 1 images"):
        ValuesOfImages(False, [1.0, 2.0], ["a"])
    for values, bases in (([0.5], None), ([1.0], [1.0])):
        with pytest.raises(BlobexError, match="0 or 1"):
            ValuesOfImages(True, values, ["a"], bases)
    with pytest.raises(BlobexError, match="not finite"):
        ratio_interval([float("nan")], [1.0], ["a"], 0)
    with pytest.raises(BlobexError, match="bases above 0"):
        ratio_interval([1.0], [0.0], ["a"], 0)
    with pytest.raises(BlobexError, match="one value or more"):
        share_interval([], [])


@pytest.mark.parametrize("count", [8, 32, 128])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_exact_coverage_of_wilson(count: int, share: float) -> None:
    """Few values have few possible intervals, so that no interval covers exactly 95%; a bootstrap one covers 8%."""
    ends = np.array([wilson(hits / count, count) for hits in range(count + 1)])
    covers = (ends[:, 0] <= share) & (share <= ends[:, 1])
    chances = scipy.stats.binom.pmf(np.arange(count + 1), count, share)
    assert 0.92 < chances[covers].sum() < 0.98


def test_flat_intervals_have_means_ends_and_counts() -> None:
    values = {
        "rate": ValuesOfImages(True, [1.0, 0.0, 1.0, 1.0], ["a", "b", "c", "d"]),
        "none": ValuesOfImages(True),
        "same": ValuesOfImages(False, [2.0, 2.0], ["a", "b"]),
    }
    measures = flat_intervals(values, seed=0)
    assert measures["rate"] == 0.75 and measures["rate_count"] == 4
    assert (measures["rate_low"], measures["rate_high"]) == pytest.approx(wilson(0.75, 4))
    assert (measures["same_low"], measures["same_high"]) == (2.0, 2.0)
    assert not any(name.startswith("none") for name in measures)


@pytest.mark.parametrize("count", [8, 32, 128])
@pytest.mark.parametrize("lost, gained", [(0.0, 0.9), (0.05, 0.9), (0.1, 0.4), (0.01, 0.01)])
def test_coverage_of_a_difference_of_paired_shares(count: int, lost: float, gained: float) -> None:
    random = np.random.default_rng(9)
    draws = random.choice([-1, 0, 1], p=[lost, 1 - lost - gained, gained], size=(600, count))
    names = [str(number) for number in range(count)]
    found = [difference_interval(draw.tolist(), names) for draw in draws]
    assert np.mean([each.low <= gained - lost <= each.high for each in found]) > 0.93
    assert all(each.low <= each.mean <= each.high for each in found)


def test_difference_of_paired_shares_is_the_plus_two_interval() -> None:
    """Agresti and Min (2005): half an observation is added to each cell of the table of pairs."""
    gained, lost, same = 9, 2, 21
    found = difference_interval([1] * gained + [-1] * lost + [0] * same, [str(number) for number in range(32)])
    total, up, down = 34, gained + 0.5, lost + 0.5
    half = 1.959964 * np.sqrt((up + down - (up - down) ** 2 / total) / total**2)
    assert (found.low, found.high) == pytest.approx(((up - down) / total - half, (up - down) / total + half))
    assert found.mean == pytest.approx(7 / 32)


def test_differences_of_one_image_count_once() -> None:
    few = difference_interval([1, 0, 0.5], ["a", "b", "c"])
    many = difference_interval([1, 1, 0, 0, 1, 0], ["a", "a", "b", "b", "c", "c"])
    assert (few.mean, few.low, few.high) == (many.mean, many.low, many.high)
