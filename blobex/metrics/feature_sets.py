"""Measures of two sets of features: split Frechet and kernel distance, precision and recall.

Sources: sFID (Jeanneret et al., CVPR 2023), KID (Binkowski et al., ICLR 2018), improved precision and recall
(Kynkaanniemi et al., NeurIPS 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.frechet import frechet_distance, frechet_name, gaussian

REPEATS = 10  # of a random split
ORIGIN = ("one network", "one setup")  # of the features of both halves
SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance
NEIGHBOURS = 3
IN_MEMORY = 2**24  # distances at a time


def feature_sets(*sets: Tensor, least: int) -> list[Tensor]:
    """Convert feature sets (N,D) to float64 and check that they can be compared; N may differ.

    Raises BlobexError if the sets differ in D, one has fewer than `least` rows, or a feature is not finite.

    >>> import torch
    >>> [features.dtype for features in feature_sets(torch.zeros(3, 2), torch.zeros(4, 2), least=3)]
    [torch.float64, torch.float64]
    """
    for features in sets:
        if features.dim() != 2 or features.shape[1:] != sets[0].shape[1:]:
            shapes = " and ".join("x".join(map(str, each.shape)) for each in sets)
            raise BlobexError(f"feature sets of shapes {shapes} cannot be compared: give one row of features an image")
        if len(features) < least:
            raise BlobexError(f"a feature set has {len(features)} images: this measure needs {least} or more")
        if not features.isfinite().all():
            raise BlobexError("some features are not finite: the images or the feature network are broken")
    return [features.detach().double() for features in sets]


def split_frechet(queries: Tensor, counterfactuals: Tensor, seed: int, repeats: int = REPEATS) -> float:
    """Compute the mean distance, over random splits, of one half's counterfactuals to the other half's queries.

    The halves share no image, so that the nearness of a counterfactual to its own query does not count. Features are
    (N,D), and rows with one index are of one image. Raises BlobexError if the sets differ in size, have fewer than 4
    rows, or a feature is not finite.

    >>> split_frechet(torch.zeros(8, 2), torch.ones(8, 2), seed=0)
    2.0
    """
    distances = split_distances(queries, counterfactuals, seed, repeats)
    return sum(distances) / len(distances)


def split_distances(queries: Tensor, counterfactuals: Tensor, seed: int, repeats: int = REPEATS) -> list[float]:
    """Return the distance of each random split, of which `split_frechet` is the mean.

    >>> split_distances(torch.zeros(8, 2), torch.ones(8, 2), seed=0, repeats=2)
    [2.0, 2.0]
    """
    queries, counterfactuals = feature_sets(queries, counterfactuals, least=4)
    if len(queries) != len(counterfactuals):
        raise BlobexError(
            f"there are {len(counterfactuals)} counterfactuals of {len(queries)} queries: give one for each"
        )
    return [
        frechet_distance(gaussian(counterfactuals[first], *ORIGIN), gaussian(queries[second], *ORIGIN))
        for first, second in splits(len(queries), seed, repeats)
    ]


def drawn_distances(features: Tensor, real: Tensor, seed: int, repeats: int = REPEATS) -> list[float]:
    """Return the distances of features (N,D) to N random rows of `real` (M,D), drawn `repeats` times.

    A Frechet distance falls with the number of images, so only distances of one N can be compared. Raises BlobexError
    if `real` has fewer rows than `features`, these fewer than 2, or a feature is not finite.

    >>> drawn_distances(torch.zeros(2, 1), torch.ones(4, 1), seed=0, repeats=2)
    [1.0, 1.0]
    """
    features, real = feature_sets(features, real, least=2)
    if len(real) < len(features):
        raise BlobexError(f"{len(real)} real images are fewer than the {len(features)} to compare: take more")
    random, own = torch.Generator().manual_seed(seed), gaussian(features, *ORIGIN)
    draws = [torch.randperm(len(real), generator=random)[: len(features)] for _ in range(repeats)]
    return [frechet_distance(own, gaussian(real[draw], *ORIGIN)) for draw in draws]


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

    The kernel is (x.y / D + 1)^3. The result is over random subsets, each drawn without replacement. Raises BlobexError
    if a set is smaller than `subset_size`, or a feature is not finite.

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
        x, y = (features[torch.randperm(len(features), generator=random)[:subset_size]] for features in sets)
        values[index] = poly_mmd(x, y)
    return KernelDistance(values.mean().item(), values.std(correction=0).item(), subsets, subset_size)


def kernel_name(network: str) -> str:
    """Return the name of the kernel distance by a feature network's features; only Inception's is the KID.

    >>> kernel_name("inception"), kernel_name("parser")
    ('kid', 'kd_parser')
    """
    return frechet_name(network).replace("fid", "kid").replace("fd_", "kd_")


@dataclass(frozen=True)
class PrecisionRecall:
    precision: float  # share of generated images within the manifold of the real ones
    recall: float  # share of real images within the manifold of the generated ones


def precision_recall(
    real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS, in_memory: int = IN_MEMORY
) -> PrecisionRecall:
    """Compute precision and recall, 0 to 1, in float64 (equation 2).

    The manifold of a set is the union of closed balls around its points, each reaching to the k-th nearest other point.
    Features are (N,D) and (M,D); `neighbours` is k. About `in_memory` distances are in memory at a time. Raises
    BlobexError if a set has no more than k points, or more than k copies of one.

    >>> line = torch.arange(8.0)[:, None]
    >>> precision_recall(real=line, generated=line[:4])
    PrecisionRecall(precision=1.0, recall=0.875)
    """
    if neighbours < 1:
        raise BlobexError(f"{neighbours} neighbours span no ball: take 1 or more")
    real, generated = feature_sets(real, generated, least=neighbours + 1)
    real_radii, generated_radii = (
        _radii(points, neighbours, name, in_memory) for points, name in ((real, "real"), (generated, "generated"))
    )
    return PrecisionRecall(
        precision=_covered(generated, real, real_radii, in_memory),
        recall=_covered(real, generated, generated_radii, in_memory),
    )


def _radii(points: Tensor, neighbours: int, name: str, in_memory: int) -> Tensor:
    """Return the squared distance (N,) of each point to its k-th nearest neighbour."""
    radii = torch.empty_like(points[:, 0])
    for rows, distances in _blocks(points, points, in_memory):
        distances[torch.arange(len(rows)), rows] = torch.inf
        last = distances.kthvalue(neighbours, dim=1).indices
        radii[rows] = (points[rows] - points[last]).square().sum(1)  # exactly 0 between copies
    if not radii.all():
        first, copies = int((radii == 0).nonzero()[0]), neighbours + 1
        raise BlobexError(
            f"{copies} or more {name} images have the same features (the first is number {first}): leave copies out"
        )
    return radii


def _covered(points: Tensor, centres: Tensor, radii: Tensor, in_memory: int) -> float:
    """Return the share of points in at least one of the balls."""
    inside = sum(int((distances <= radii).any(1).sum()) for _, distances in _blocks(points, centres, in_memory))
    return inside / len(points)


def _blocks(points: Tensor, others: Tensor, in_memory: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield indices (B,) of points, block by block, and their squared distances (B,M) to the others."""
    squares = others.square().sum(1)
    for rows in torch.arange(len(points), device=points.device).split(max(1, in_memory // len(others))):
        block = points[rows]
        yield rows, block.square().sum(1, keepdim=True) + squares - 2 * block @ others.T
