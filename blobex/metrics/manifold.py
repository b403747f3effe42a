"""Improved precision and recall of a generator (Kynkaanniemi et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.features import feature_sets

NEIGHBOURS = 3
IN_MEMORY = 2**24  # distances at a time


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
