"""How much several counterfactuals of one picture differ from each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

Distance = Callable[[Tensor, Tensor], Tensor]  # pictures (N,3,H,W), twice, to distances (N,)


@torch.no_grad()
def mean_pairwise_distance(pictures: Tensor, distance: Distance, batch_size: int = 32) -> float:
    """The mean distance of all pairs of k counterfactuals (k,3,H,W) of one picture.

    With LPIPS: sigma_L (Jeanneret et al., ACCV 2022). BlobexError for fewer than two.

    >>> black, white = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    >>> mean_pairwise_distance(torch.stack([black, white]), lambda a, b: (a - b).abs().mean((1, 2, 3)))
    1.0
    """
    first, second = _pairs(len(pictures))
    parts = zip(first.split(batch_size), second.split(batch_size), strict=True)
    values = torch.cat([distance(pictures[one], pictures[other]) for one, other in parts])
    return values.double().mean().item()


def mean_pairwise_jaccard(changed: Tensor) -> float:
    """The mean Jaccard distance, 0 to 1, of all pairs of sets of changed blobs (k,K+1) bool, of one picture.

    1 where no two explanations change the same blob, 0 where all change the same; two empty sets are the same.
    BlobexError for fewer than two.

    >>> mean_pairwise_jaccard(torch.tensor([[False, True, True, False], [False, False, True, False]]))
    0.5
    """
    first, second = _pairs(len(changed))
    one, other = changed[first].bool(), changed[second].bool()
    shared, total = (one & other).sum(1).double(), (one | other).sum(1).double()
    return torch.where(total > 0, 1 - shared / total.clamp(min=1), 0.0).mean().item()


def _pairs(count: int) -> tuple[Tensor, Tensor]:
    """The numbers of both sides of every pair."""
    if count < 2:
        raise BlobexError(f"diversity needs two counterfactuals of a picture or more, not {count}")
    first, second = zip(*itertools.combinations(range(count), 2), strict=True)
    return torch.tensor(first), torch.tensor(second)
