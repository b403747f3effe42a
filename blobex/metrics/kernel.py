"""Kernel distance between two sets of images (Binkowski et al., ICLR 2018); with Inception's features it is the KID.

Unlike the Frechet distance it is unbiased, however few the images are. torchmetrics computes the discrepancy; ours is
the choice of subsets, which follows a seed and allows sets of two sizes.
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
    """Mean and spread of the squared discrepancies of random subsets."""

    mean: float  # near 0, above or below, if both sets are of one distribution
    deviation: float  # standard deviation over the subsets; 0 if each subset is a whole set
    subsets: int
    subset_size: int


def kernel_distance(
    a: Tensor, b: Tensor, seed: int, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> KernelDistance:
    """Compute the unbiased squared MMD (Gretton et al., JMLR 2012, equation 3) of features a (N,D) and b (M,D).

    The kernel is (x.y / D + 1)^3. The result is over random subsets, each drawn without replacement.

    Raises:
        BlobexError: if a set is smaller than `subset_size`, or a feature is not finite.

    >>> kernel_distance(torch.zeros(4, 1), torch.zeros(4, 1), seed=0, subsets=2, subset_size=3)
    KernelDistance(mean=0.0, deviation=0.0, subsets=2, subset_size=3)
    """
    from torchmetrics.image.kid import poly_mmd  # slow to import

    if subsets < 1 or subset_size < 2:
        raise BlobexError(f"{subsets} subsets of {subset_size} images measure nothing: take 1 of 2 or more")
    sets = feature_sets(a, b, least=subset_size)
    random = torch.Generator().manual_seed(seed)
    values = torch.empty(subsets, dtype=torch.float64)
    for index in range(subsets):
        x, y = (features[_draw(len(features), subset_size, random).to(features.device)] for features in sets)
        values[index] = poly_mmd(x, y)
    return KernelDistance(values.mean().item(), values.std(correction=0).item(), subsets, subset_size)


def kernel_name(network: str) -> str:
    """Return the name of the kernel distance by a feature network's features; only Inception's is the KID.

    >>> kernel_name("inception"), kernel_name("parser")
    ('kid', 'kd_parser')
    """
    return frechet_name(network).replace("fid", "kid").replace("fd_", "kd_")


def _draw(count: int, size: int, random: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=random)[:size]
