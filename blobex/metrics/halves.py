"""Frechet distance between disjoint halves: sFID (Jeanneret et al., CVPR 2023).

A counterfactual differs little from its query, so that the distance between all queries and all their counterfactuals
is small whatever the counterfactuals look like. Between halves that share no picture it is not. With the same pictures
on both sides it is the floor: what the number of pictures alone costs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.features import feature_sets
from blobex.metrics.frechet import frechet_distance, gaussian

REPEATS = 10
ONE = ("one network", "one setup")  # whichever: both sides are of the same


def split_frechet(queries: Tensor, counterfactuals: Tensor, seed: int, repeats: int = REPEATS) -> float:
    """The mean, over random splits, of the distance from one half's counterfactuals to the other half's queries.

    Features are (N,D), and row i of both is of the same picture. BlobexError for fewer than 4 pictures, sets of
    different sizes, or features that are not finite.

    >>> split_frechet(torch.zeros(8, 2), torch.ones(8, 2), seed=0)
    2.0
    """
    queries, counterfactuals = feature_sets(queries, counterfactuals, least=4)
    if len(queries) != len(counterfactuals):
        raise BlobexError(
            f"there are {len(counterfactuals)} counterfactuals of {len(queries)} queries: give one for each"
        )
    distances = [
        frechet_distance(gaussian(counterfactuals[first], *ONE), gaussian(queries[second], *ONE))
        for first, second in splits(len(queries), seed, repeats)
    ]
    return sum(distances) / len(distances)


def splits(count: int, seed: int, repeats: int = REPEATS) -> list[tuple[Tensor, Tensor]]:
    """Random splits of the numbers 0 to count-1 into two halves; the second has one more if `count` is odd.

    >>> [(len(first), len(second)) for first, second in splits(5, seed=0, repeats=2)]
    [(2, 3), (2, 3)]
    """
    if repeats < 1:
        raise BlobexError(f"{repeats} repeats measure nothing: take 1 or more")
    random = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(count, generator=random) for _ in range(repeats)]
    return [(order[: count // 2], order[count // 2 :]) for order in orders]
