"""Improved precision and recall of a generator (Kynkaanniemi et al., NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.features import feature_sets

NEIGHBOURS = 3
HELD = 2**24  # distances in memory at a time


@dataclass(frozen=True)
class PrecisionRecall:
    precision: float  # share of generated pictures that lie among the real ones
    recall: float  # share of real pictures that lie among the generated ones


def precision_recall(
    real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS, held: int = HELD
) -> PrecisionRecall:
    """Precision and recall of features `generated` (M,D) with regard to `real` (N,D), in float64 (equation 2).

    A set covers a ball around each of its points, its surface included, that reaches to the point's k-th nearest
    neighbour in the set, the point itself not counted. No more than about `held` distances are in memory at a time.
    BlobexError: a set has no more pictures than `neighbours`, or so many copies of one that its ball has no size.

    >>> line = torch.arange(8.0)[:, None]
    >>> precision_recall(real=line, generated=line[:4])
    PrecisionRecall(precision=1.0, recall=0.875)
    """
    if neighbours < 1:
        raise BlobexError(f"{neighbours} neighbours span no ball: take 1 or more")
    real, generated = feature_sets(real, generated, least=neighbours + 1)
    balls = [_radii(points, neighbours, name, held) for points, name in ((real, "real"), (generated, "generated"))]
    return PrecisionRecall(
        precision=_covered(generated, real, balls[0], held), recall=_covered(real, generated, balls[1], held)
    )


def _radii(points: Tensor, neighbours: int, name: str, held: int) -> Tensor:
    """Per point (N,), the squared distance to its k-th nearest neighbour."""
    radii = torch.empty_like(points[:, 0])
    for rows, distances in _blocks(points, points, held):
        distances[torch.arange(len(rows)), rows] = torch.inf
        last = distances.kthvalue(neighbours, dim=1).indices
        radii[rows] = (points[rows] - points[last]).square().sum(1)  # exactly 0 between copies
    if not radii.all():
        place, copies = int((radii == 0).nonzero()[0]), neighbours + 1
        raise BlobexError(
            f"{copies} or more {name} pictures have the same features (the first is number {place}): leave copies out"
        )
    return radii


def _covered(points: Tensor, centres: Tensor, radii: Tensor, held: int) -> float:
    """The share of points in at least one of the balls."""
    inside = sum(int((distances <= radii).any(1).sum()) for _, distances in _blocks(points, centres, held))
    return inside / len(points)


def _blocks(points: Tensor, others: Tensor, held: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers (B,) of some of the points, and their squared distances (B,M) to the others."""
    squares = others.square().sum(1)
    for rows in torch.arange(len(points), device=points.device).split(max(1, held // len(others))):
        some = points[rows]
        yield rows, some.square().sum(1, keepdim=True) + squares - 2 * some @ others.T
