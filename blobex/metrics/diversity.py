"""Diversity of several counterfactuals of one image."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

Distance = Callable[[Tensor, Tensor], Tensor]  # images (N,3,H,W), twice, to distances (N,)


@torch.no_grad()
def mean_pairwise_distance(images: Tensor, distance: Distance, batch_size: int = 32) -> float:
    """Compute the mean distance of all pairs of counterfactuals (k,3,H,W) of one image; BlobexError if k is below 2.

    With LPIPS it is sigma_L (Jeanneret et al., ACCV 2022).

    >>> black, white = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    >>> mean_pairwise_distance(torch.stack([black, white]), lambda a, b: (a - b).abs().mean((1, 2, 3)))
    1.0
    """
    first, second = _pairs(len(images))
    batches = zip(first.split(batch_size), second.split(batch_size), strict=True)
    values = torch.cat([distance(images[one], images[other]) for one, other in batches])
    return values.double().mean().item()


def mean_pairwise_jaccard(changed: Tensor) -> float:
    """Compute the mean Jaccard distance of all pairs of sets of changed blobs (k,K+1); BlobexError if k is below 2.

    It is 0 if all counterfactuals change the same blobs, or none, and 1 if no two change the same blob.

    >>> mean_pairwise_jaccard(torch.tensor([[False, True, True, False], [False, False, True, False]]))
    0.5
    """
    first, second = _pairs(len(changed))
    one, other = changed[first].bool(), changed[second].bool()
    shared, total = (one & other).sum(1).double(), (one | other).sum(1).double()
    return torch.where(total > 0, 1 - shared / total.clamp(min=1), 0.0).mean().item()


def _pairs(count: int) -> tuple[Tensor, Tensor]:
    """Return the indices of both sides of all pairs."""
    if count < 2:
        raise BlobexError(f"diversity needs two counterfactuals of an image or more, not {count}")
    first, second = zip(*itertools.combinations(range(count), 2), strict=True)
    return torch.tensor(first), torch.tensor(second)
