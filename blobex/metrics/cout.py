"""COUT, the counterfactual transition score (Khorram and Fuxin, CVPR 2022): how sparse the change is that decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

# Pictures (M,3,H,W) and the numbers (M,) of the explanations that they are of, to the probabilities (M,2) of the
# wanted and of the original outcome.
Scores = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def cout(queries: Tensor, counterfactuals: Tensor, scores: Scores, steps: int = 50, batch_size: int = 32) -> Tensor:
    """COUT (N,) of pictures (N,3,H,W), from -1 to 1: the more pixels a decision needs, the less.

    Pixels go from the query to the counterfactual, those first that differ most (sum over channels of the absolute
    difference; ties by place), a share of 1/steps of the picture at a time. COUT is the area under the curve of the
    wanted outcome's probability less that of the original outcome's, by trapezoids, over the intervals taken: once no
    pixel differs any more, there are no more. Identical pictures have none; their curve is constant. Where a
    probability is NaN, so is COUT. No more than `batch_size` pictures are scored at once, which changes no result.
    BlobexError: pictures of different shapes, or fewer than one step.

    >>> def scores(pictures, numbers):  # the wanted outcome is as likely as the picture is white
    ...     white = pictures.mean((1, 2, 3))
    ...     return torch.stack([white, 1 - white], dim=1)
    >>> cout(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2), scores, steps=4)
    tensor([0.])
    """
    if queries.shape != counterfactuals.shape or queries.ndim != 4:
        raise BlobexError(
            f"queries {tuple(queries.shape)} and counterfactuals {tuple(counterfactuals.shape)} must have one shape "
            "(N,3,H,W)"
        )
    if steps < 1 or batch_size < 1:
        raise BlobexError(f"COUT needs one step and a batch of one or more, not {steps} and {batch_size}")
    numbers = torch.arange(len(queries), device=queries.device)
    areas = [
        _areas(queries[part], counterfactuals[part], part, scores, steps)
        for part in numbers.split(batch_size)
        if len(part)
    ]
    return torch.cat(areas) if areas else torch.zeros(0, device=queries.device)


def attribute_scores(logits: Tensor, wanted: Tensor) -> Tensor:
    """Probabilities (M,2) of the wanted and the original outcome of an attribute with these logits (M,).

    `wanted` (M,) is whether it should hold: the two outcomes are each other's opposite.

    >>> attribute_scores(torch.tensor([0.0]), torch.tensor([True]))
    tensor([[0.5000, 0.5000]])
    """
    signed = torch.where(wanted.bool(), logits, -logits)
    return torch.stack([signed, -signed], dim=1).sigmoid()


def _areas(queries: Tensor, counterfactuals: Tensor, numbers: Tensor, scores: Scores, steps: int) -> Tensor:
    difference = (counterfactuals - queries).abs().sum(1).flatten(1)
    size, differing = difference.shape[1], (difference > 0).sum(1)
    rank = difference.argsort(dim=1, descending=True, stable=True).argsort(dim=1).view(len(queries), *queries.shape[2:])
    bounds = [round(step * size / steps) for step in range(steps + 1)]
    area, intervals = torch.zeros(len(queries), device=queries.device), torch.zeros_like(differing)
    previous = _gap(queries, numbers, scores)
    constant = previous.clone()
    for start, end in itertools.pairwise(bounds):
        left = torch.nonzero((differing > start) & (end > start))[:, 0]  # explanations with pixels left to move
        if len(left) == 0:
            continue
        moved = (rank[left] < end)[:, None]
        current = _gap(torch.where(moved, counterfactuals[left], queries[left]), numbers[left], scores)
        area[left] += (previous[left] + current) / 2
        previous[left] = current
        intervals[left] += 1
    return torch.where(intervals > 0, area / intervals.clamp(min=1), constant)


def _gap(pictures: Tensor, numbers: Tensor, scores: Scores) -> Tensor:
    """The wanted outcome's probability less the original one's (M,) float32."""
    values = scores(pictures, numbers)
    if values.shape != (len(pictures), 2):
        raise BlobexError(
            f"the scores have shape {tuple(values.shape)} instead of ({len(pictures)}, 2): give the probabilities of "
            "the wanted and of the original outcome"
        )
    return (values[:, 0] - values[:, 1]).float()
