"""Intervals of means, shares and ratios, of independent values or of several values of each image.

Bootstrap intervals do not apply to distances between sets, such as the FID: the copies in a resample raise such a
distance. `spread` shows how far one varies with the choice of images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

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


def flat_intervals(values: Mapping[str, ValuesOfImages], seed: int) -> dict[str, float]:
    """Flatten the interval of each measure that has values; `seed` is that of the bootstrap.

    >>> sorted(flat_intervals({"flip_rate": ValuesOfImages(True, [1.0], ["a"]), "none": ValuesOfImages(True)}, seed=0))
    ['flip_rate', 'flip_rate_count', 'flip_rate_high', 'flip_rate_low']
    """
    return flat({name: measure.interval(seed) for name, measure in values.items() if measure.values})


def interval(values: ArrayLike, seed: int, level: float = LEVEL, resamples: int = RESAMPLES) -> Interval:
    """Compute the mean of values (n,) and its percentile bootstrap interval (Efron and Tibshirani, 1993, chapter 13).

    Values are independent: differences of pairs for a paired comparison. The interval of a single value is that value;
    a share has `share_interval`. Raises BlobexError if there are no values, or a value is not finite.

    >>> interval([2.5, 2.5, 2.5], seed=0)
    Interval(mean=2.5, low=2.5, high=2.5, count=3)
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


@dataclass(frozen=True)
class ValuesOfImages:
    """Values of which several belong to one image, and so are not independent.

    The measure is the mean of `values`, or their sum over that of `bases`. `share` says that each value is 0 or 1.
    """

    share: bool
    values: list[float] = field(default_factory=list)
    images: list[str] = field(default_factory=list)  # of each value
    bases: list[float] | None = None  # of each value

    def __post_init__(self) -> None:
        lengths = {len(self.values), len(self.images), len(self.values if self.bases is None else self.bases)}
        if len(lengths) > 1:
            raise BlobexError(f"there are {len(self.values)} values of {len(self.images)} images: name one for each")
        if self.share and (self.bases is not None or not set(self.values) <= {0, 1}):
            raise BlobexError("a share is of values that are 0 or 1, without bases: it is no share otherwise")

    def extend(self, image: str, values: Sequence[float]) -> None:
        """Add values of one image; there are no bases."""
        self.values.extend(values)
        self.images.extend([image] * len(values))

    def interval(self, seed: int) -> Interval:
        """Compute the measure's interval: `share_interval` of a share, else `ratio_interval`."""
        if self.share:
            return share_interval(self.values, self.images)
        return ratio_interval(self.values, self.bases or [1.0] * len(self.values), self.images, seed)


def wilson(share: float, count: float, level: float = LEVEL) -> tuple[float, float]:
    """Compute the score interval of a share among `count` values (Wilson, JASA 1927), within [0, 1].

    >>> low, high = wilson(1.0, 32)
    >>> round(low, 3), high
    (0.893, 1.0)
    """
    z = float(ndtri((1 + level) / 2))
    shrunk = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(centre - half, 0.0) if share > 0 else 0.0, min(centre + half, 1.0) if share < 1 else 1.0


def share_interval(values: Sequence[float], images: Sequence[str], level: float = LEVEL) -> Interval:
    """Compute a share of values that are 0 or 1, and its Wilson interval at the effective number of values.

    That number is the number of values divided by the design effect: the variance of the share over images relative to
    that of independent values (Kish, 1965; with score intervals: Franco et al., J. Surv. Stat. Methodol. 2019). It is
    between the number of images and that of values; the former where all values are equal, which says nothing about
    their dependence.

    >>> found = share_interval([1, 1, 1, 1], ["a", "a", "b", "b"])
    >>> round(found.low, 3), found.high, found.count
    (0.342, 1.0, 4)
    """
    sums, counts = (_by_image(numbers, images) for numbers in (values, [1.0] * len(values)))
    total, groups = float(counts.sum()), len(counts)
    share = float(sums.sum() / total)
    most = total / groups  # design effect of values that are equal within each image
    effect, independent = most, share * (1 - share) / total
    if groups > 1 and independent > 0:
        variance = groups / (groups - 1) * float(((sums - share * counts) ** 2).sum()) / total**2
        effect = min(max(variance / independent, 1.0), most)
    return Interval(share, *wilson(share, total / effect, level), len(values))


def ratio_interval(
    values: Sequence[float],
    bases: Sequence[float],
    images: Sequence[str],
    seed: int,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval:
    """Compute sum(values) / sum(bases) and its percentile bootstrap interval; images are resampled with their values.

    With bases of 1 it is the mean. Raises BlobexError without values, or if a number is not finite or the bases are 0.

    >>> ratio_interval([1, 3, 2], [2, 2, 2], ["a", "a", "b"], seed=0).mean
    1.0
    """
    sums, below = _by_image(values, images), _by_image(bases, images)
    if not below.sum() > 0:
        raise BlobexError("a ratio needs bases above 0: leave values without a base out")
    chosen = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    with np.errstate(invalid="ignore", divide="ignore"):  # resamples whose bases are all 0 say nothing
        ratios = sums[chosen].sum(1) / below[chosen].sum(1)
    low, high = np.quantile(ratios[np.isfinite(ratios)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sums.sum() / below.sum()), float(low), float(high), len(values))


def difference_interval(
    differences: Sequence[float], images: Sequence[str], bound: float = 1.0, level: float = LEVEL
) -> Interval:
    """Compute the mean of differences of paired shares in [-bound, bound], and its interval; images are the units.

    Half a difference of -bound, half one of bound and one of 0 are added before the normal approximation, which then
    also holds for few images or equal differences (Agresti and Min, Stat. Med. 2005, the +2 interval). Raises
    BlobexError without values, or if a number is not finite.

    >>> found = difference_interval([1, 1, 1, 1], ["a", "b", "c", "d"])
    >>> found.mean, round(found.low, 2), found.high
    (1.0, 0.17, 1.0)
    """
    sums, counts = (_by_image(numbers, images) for numbers in (differences, [1.0] * len(differences)))
    means, total = sums / counts, len(counts) + 2
    mean = float(means.sum() / len(counts))
    centre = float(means.sum()) / total
    variance = (float((means**2).sum()) + bound**2) / total - centre**2
    half = float(ndtri((1 + level) / 2)) * math.sqrt(variance / total)
    return Interval(mean, max(centre - half, -bound), min(centre + half, bound), len(differences))


def spread(distances: Sequence[float], count: int, level: float = LEVEL) -> Interval:
    """Return the mean and the range, without its tails, of one distance over random choices of `count` images.

    >>> spread([1.0, 2.0, 3.0], count=500, level=0.5)
    Interval(mean=2.0, low=1.5, high=2.5, count=500)
    """
    low, high = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(distances)), float(low), float(high), count)


def _by_image(values: Sequence[float], images: Sequence[str]) -> np.ndarray:
    """Return the sum of each image's values, in the order in which images occur."""
    if not len(values):
        raise BlobexError("an interval needs one value or more")
    if not np.isfinite(np.asarray(values, dtype=np.float64)).all():
        raise BlobexError("some values are not finite: count failures as such before an interval is taken")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(images))}
    sums = np.zeros(len(numbers))
    np.add.at(sums, [numbers[name] for name in images], values)
    return sums
