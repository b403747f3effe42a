"""Kernel distance between two sets of pictures (Binkowski et al., ICLR 2018); of Inception's features it is the KID.

Unlike the Frechet distance it has no bias, however few the pictures are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.features import feature_sets
from blobex.metrics.frechet import frechet_name

SUBSETS, SUBSET_SIZE = 100, 1000


@dataclass(frozen=True)
class KernelDistance:
    """Squared discrepancies of random subsets. One of them lies `deviation` from the mean; the mean lies nearer."""

    mean: float  # 0 where both sets are alike, and then as often below 0 as above
    deviation: float  # standard deviation over the subsets; 0 if a subset is the whole of both sets
    subsets: int
    subset_size: int


def kernel_distance(
    a: Tensor, b: Tensor, seed: int, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> KernelDistance:
    """The unbiased MMD^2 of features a (N,D) and b (M,D), over random subsets; none holds a picture twice.

    BlobexError if a set is smaller than `subset_size`, or features are not finite.

    >>> kernel_distance(torch.zeros(4, 1), torch.zeros(4, 1), seed=0, subsets=2, subset_size=3)
    KernelDistance(mean=0.0, deviation=0.0, subsets=2, subset_size=3)
    """
    if subsets < 1 or subset_size < 2:
        raise BlobexError(f"{subsets} subsets of {subset_size} pictures measure nothing: take 1 of 2 or more")
    sets = feature_sets(a, b, least=subset_size)
    random = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    for index in range(subsets):
        chosen = [features[_draw(len(features), subset_size, random).to(features.device)] for features in sets]
        values[index] = squared_discrepancy(*chosen)
    return KernelDistance(values.mean().item(), values.std(correction=0).item(), subsets, subset_size)


def squared_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2 (Gretton et al., JMLR 2012, equation 3) of float64 features x (N,D) and y (M,D).

    mean of k(x_i, x_j) over i != j, plus the same of y, minus twice the mean of k(x_i, y_j); k(x, y) = (x.y / D + 1)^3.
    A scalar, which may be below 0.

    >>> squared_discrepancy(torch.zeros(2, 1), torch.ones(2, 1))  # k is 1 within x, 8 within y, 1 between
    tensor(7.)
    """
    within = sum((_kernel(own, own).sum() - _kernel_of_self(own).sum()) / (len(own) * (len(own) - 1)) for own in (x, y))
    return within - 2 * _kernel(x, y).mean()


def kernel_name(network: str) -> str:
    """What a kernel distance of this feature network is called: only Inception's is the KID.

    >>> kernel_name("inception"), kernel_name("parser")
    ('kid', 'kd_parser')
    """
    return frechet_name(network).replace("fid", "kid").replace("fd_", "kd_")


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _kernel_of_self(x: Tensor) -> Tensor:
    return (x.square().mean(1) + 1) ** 3


def _draw(count: int, size: int, random: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=random)[:size]
