"""Causal effects of interventions on a model's decisions, from its decision about each image before and after.

GIFT verifies what explanations say by such interventions on images (Zablocki et al., arXiv 2411.15605, 2024). Both
decisions about an image are known, so that the probabilities of causation, which observations only bound (Tian and
Pearl, Ann. Math. Artif. Intell. 2000), are shares of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from blobex.metrics.interval import Interval, difference_interval, share_interval

LEVEL = 0.05  # chance of one claim or more of a family that is not so


@dataclass(frozen=True)
class Effect:
    """Effect of an intervention on a decision that is 0 or 1, with intervals in which images are the units."""

    effect: Interval  # average causal effect: mean of after - before, in [-1, 1]
    # Of the decision that becomes more frequent; None if no image has the decision, or lacks it.
    necessity: Interval | None  # share without it before, of images with it after
    sufficiency: Interval | None  # share with it after, of images without it before

    @property
    def changes(self) -> bool:
        """Say whether any decision changed."""
        return bool(self.effect.mean or (self.sufficiency and self.sufficiency.mean))


def effect(before: Sequence[float], after: Sequence[float], images: Sequence[str]) -> Effect:
    """Compute the effect from the decisions, 0 or 1, about the same images before and after.

    Equations 4 and 5 of Tian and Pearl (2000), with x the state after: PN = P(y'_{x'} | x, y), PS = P(y_x | x', y').
    Raises BlobexError without images.

    >>> found = effect([1, 1, 1, 0], [0, 0, 1, 0], ["a", "b", "c", "d"])
    >>> found.effect.mean, round(found.necessity.mean, 2), round(found.sufficiency.mean, 2)
    (-0.5, 0.67, 0.67)
    """
    change = [float(late) - float(early) for early, late in zip(before, after, strict=True)]
    average = difference_interval(change, images)
    favoured = 1.0 if average.mean >= 0 else 0.0  # decision that becomes more frequent
    early, late = ([float(value == favoured) for value in values] for values in (before, after))
    necessary = [(1 - was, image) for was, now, image in zip(early, late, images, strict=True) if now]
    sufficient = [(now, image) for was, now, image in zip(early, late, images, strict=True) if not was]
    return Effect(average, _share(necessary), _share(sufficient))


def _share(values: Sequence[tuple[float, str]]) -> Interval | None:
    return share_interval([value for value, _ in values], [image for _, image in values]) if values else None


def is_verified(changes: Sequence[float], claims: int, positive: bool = False) -> bool:
    """Test whether changes of independent images go one way more often than by chance: exact sign test.

    Args:
        claims: Number of tests in the family, which all hold together with probability 0.95 (Bonferroni).
        positive: Only changes above 0 count as evidence.

    >>> is_verified([1.0] * 6, claims=1), is_verified([1.0] * 6, claims=30), is_verified([-1.0] * 12, 30, positive=True)
    (True, False, False)
    """
    signs = np.sign(changes)
    up, down = int((signs > 0).sum()), int((signs < 0).sum())
    if not up + down:
        return False
    test = binomtest(up, up + down, alternative="greater" if positive else "two-sided")
    return bool(test.pvalue <= LEVEL / claims)
