"""COUT, the counterfactual transition score (Khorram and Fuxin, CVPR 2022): how few pixels change a decision."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

# Images (M,3,H,W) and their row numbers (M,) to probabilities (M,2) of the wanted and of the original outcome.
Scores = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def cout(queries: Tensor, counterfactuals: Tensor, scores: Scores, steps: int = 50, batch_size: int = 32) -> Tensor:
    """Compute COUT: the sooner the decision changes while pixels are replaced, the higher.

    Pixels of the query are replaced by those of the counterfactual, a share of 1/`steps` of the image at a time, in the
    order of their absolute difference (sum over channels; ties by position). COUT is the area under the curve of the
    wanted outcome's probability minus that of the original outcome's, by trapezoids. It is averaged over the intervals
    until all pixels that differ are replaced; of identical images it is the difference of the two probabilities.

    Images are (N,3,H,W), of which at most `batch_size` are scored at once. COUT is (N,) float32, -1 to 1, and NaN where
    a probability is NaN. Raises BlobexError if the shapes differ, or `steps` or `batch_size` is below 1.

    >>> def scores(images, rows):  # the wanted outcome is as likely as the image is white
    ...     white = images.mean((1, 2, 3))
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
    rows = torch.arange(len(queries), device=queries.device).split(batch_size)
    areas = [_areas(queries[part], counterfactuals[part], part, scores, steps) for part in rows if len(part)]
    return torch.cat(areas) if areas else torch.zeros(0, device=queries.device)


def attribute_scores(logits: Tensor, wanted: Tensor) -> Tensor:
    """Compute the probabilities (M,2) of the wanted and of the original outcome of an attribute with logits (M,).

    `wanted` (M,) is True where the attribute should hold; the original outcome is the opposite.

    >>> attribute_scores(torch.tensor([0.0]), torch.tensor([True]))
    tensor([[0.5000, 0.5000]])
    """
    signed = torch.where(wanted.bool(), logits, -logits)
    return torch.stack([signed, -signed], dim=1).sigmoid()


def _areas(queries: Tensor, counterfactuals: Tensor, rows: Tensor, scores: Scores, steps: int) -> Tensor:
    difference = (counterfactuals - queries).abs().sum(1).flatten(1)
    size, differing = difference.shape[1], (difference > 0).sum(1)
    rank = difference.argsort(dim=1, descending=True, stable=True).argsort(dim=1).view(len(queries), *queries.shape[2:])
    bounds = [round(step * size / steps) for step in range(steps + 1)]
    area, intervals = torch.zeros(len(queries), device=queries.device), torch.zeros_like(differing)
    previous = _margin(queries, rows, scores)
    constant = previous.clone()
    for start, end in itertools.pairwise(bounds):
        open_ = torch.nonzero((differing > start) & (end > start))[:, 0]  # images with pixels left to replace
        if len(open_) == 0:
            continue
        replaced = (rank[open_] < end)[:, None]
        current = _margin(torch.where(replaced, counterfactuals[open_], queries[open_]), rows[open_], scores)
        area[open_] += (previous[open_] + current) / 2
        previous[open_] = current
        intervals[open_] += 1
    return torch.where(intervals > 0, area / intervals.clamp(min=1), constant)


def _margin(images: Tensor, rows: Tensor, scores: Scores) -> Tensor:
    """Return the wanted outcome's probability minus the original one's (M,) float32."""
    values = scores(images, rows)
    if values.shape != (len(images), 2):
        raise BlobexError(
            f"the scores have shape {tuple(values.shape)} instead of ({len(images)}, 2): give the probabilities of "
            "the wanted and of the original outcome"
        )
    return (values[:, 0] - values[:, 1]).float()
