"""Bootstrap intervals of means and shares.

They do not apply to distances between sets, such as the FID: the copies in a resample raise such a distance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from blobex.core.errors import BlobexError

LEVEL, RESAMPLES = 0.95, 2000


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float
    count: int  # of values


def flat(intervals: Mapping[str, Interval]) -> dict[str, float]:
    """Flatten intervals for JSON: each mean by its name, its interval and count by the name and a suffix.

    >>> flat({"flip_rate": Interval(0.9, 0.8, 0.95, 40)})
    {'flip_rate': 0.9, 'flip_rate_low': 0.8, 'flip_rate_high': 0.95, 'flip_rate_count': 40.0}
    """
    flattened: dict[str, float] = {}
    for name, values in intervals.items():
        flattened |= {name: values.mean, f"{name}_low": values.low, f"{name}_high": values.high}
        flattened[f"{name}_count"] = float(values.count)
    return flattened


def interval(values: ArrayLike, seed: int, level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """Compute the mean of values (n,) and its percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).

    Values are 0 and 1 for a share, and differences of pairs for a paired comparison. The interval of a single value is
    that value. Raises BlobexError if there are no values, or a value is not finite.

    >>> interval([1, 1, 1], seed=0)
    Interval(mean=1.0, low=1.0, high=1.0, count=3)
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise BlobexError(f"an interval needs a row of one value or more, not an array of shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise BlobexError("some values are not finite: count failures as such before an interval is taken")
    if not 0 < level < 1 or resamples < 1:
        raise BlobexError(f"level {level} with {resamples} resamples is no interval: take 0 < level < 1, and 1 or more")
    random, count = np.random.default_rng(seed), len(sample)
    means = [sample[random.integers(count, size=count)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high), count)
