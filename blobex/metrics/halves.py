"""Split Frechet distance, between disjoint halves of a set of images: sFID (Jeanneret et al., CVPR 2023).

A counterfactual differs little from its query, so that the distance between all queries and all counterfactuals is
small even if these look bad. Between halves that share no image it is not. With the same images on both sides it is the
smallest value that a number of images allows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.features import feature_sets
from blobex.metrics.frechet import frechet_distance, gaussian

REPEATS = 10
ORIGIN = ("one network", "one setup")  # of the features of both halves


def split_frechet(queries: Tensor, counterfactuals: Tensor, seed: int, repeats: int = REPEATS) -> float:
    """Compute the mean distance, over random splits, of one half's counterfactuals to the other half's queries.

    Features are (N,D), and rows with one index are of one image.

    Raises:
        BlobexError: if the sets differ in size, have fewer than 4 rows, or a feature is not finite.

    >>> split_frechet(torch.zeros(8, 2), torch.ones(8, 2), seed=0)
    2.0
    """
    queries, counterfactuals = feature_sets(queries, counterfactuals, least=4)
    if len(queries) != len(counterfactuals):
        raise BlobexError(
            f"there are {len(counterfactuals)} counterfactuals of {len(queries)} queries: give one for each"
        )
    distances = [
        frechet_distance(gaussian(counterfactuals[first], *ORIGIN), gaussian(queries[second], *ORIGIN))
        for first, second in splits(len(queries), seed, repeats)
    ]
    return sum(distances) / len(distances)


def splits(count: int, seed: int, repeats: int = REPEATS) -> list[tuple[Tensor, Tensor]]:
    """Split the indices 0 to count-1 at random into two halves; the second has one more if `count` is odd.

    >>> [(len(first), len(second)) for first, second in splits(5, seed=0, repeats=2)]
    [(2, 3), (2, 3)]
    """
    if repeats < 1:
        raise BlobexError(f"{repeats} repeats measure nothing: take 1 or more")
    random = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(count, generator=random) for _ in range(repeats)]
    return [(order[: count // 2], order[count // 2 :]) for order in orders]
