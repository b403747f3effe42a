"""Accuracy in groups of images, and how much of what a shortcut costs a repair gains back."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from blobex.core.errors import BlobexError
from blobex.metrics.interval import Interval, wilson


def group_accuracies(correct: ArrayLike, groups: Sequence[Hashable]) -> dict[Hashable, Interval]:
    """Return the accuracy of each group with its Wilson interval, in the order in which the groups occur.

    Args:
        correct: Whether each of N independent images is decided rightly, 0 or 1.
        groups: Group of each image, such as its label and whether the shortcut is present.

    Raises:
        BlobexError: There are no images, or not one group for each.

    >>> found = group_accuracies([1, 1, 0, 1], ["day", "day", "night", "night"])
    >>> found["day"].mean, found["night"].mean
    (1.0, 0.5)
    """
    values = np.asarray(correct, dtype=np.float64)
    if values.shape != (len(groups),) or not len(values):
        raise BlobexError(f"there are {len(groups)} groups for {values.size} images: give one for each, at least one")
    accuracies = {}
    for group in dict.fromkeys(groups):
        inside = values[[other == group for other in groups]]
        share = float(inside.mean())
        accuracies[group] = Interval(share, *wilson(share, len(inside)), len(inside))
    return accuracies


def worst_group(accuracies: Iterable[Interval]) -> Interval:
    """Return the lowest of the groups' accuracies (Sagawa et al., ICLR 2020), the first of equal ones."""
    return min(accuracies, key=lambda accuracy: accuracy.mean)


def gain(before: float, after: float) -> float | None:
    """Return the share of the errors in the worst group that a repair removes: (after - before) / (1 - before).

    This is the gain by which PEAL rates explanations (Bender et al., "Towards Desiderata-Driven Design of Visual
    Counterfactual Explainers", 2025), of worst-group accuracies in [0, 1]: 1 if no error is left, 0 without effect,
    negative if the repair does harm. None if there was no error before.

    >>> gain(0.2, 0.6), gain(0.2, 0.2), gain(1.0, 1.0)
    (0.49999999999999994, 0.0, None)
    """
    for accuracy in (before, after):
        if not 0 <= accuracy <= 1:
            raise BlobexError(f"an accuracy of {accuracy} is not between 0 and 1: give shares")
    return None if before == 1 else (after - before) / (1 - before)
