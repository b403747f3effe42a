"""Cosine similarity between the features of a query and of its counterfactual.

The measure S3 (Jeanneret et al., CVPR 2023, section 4) is the same with SimSiam's features; blobex uses the parser's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

Features = Callable[[Tensor], Tensor]  # images (N,3,H,W) in [-1,1] to features (N,D)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Compute the cosine similarities (N,) float64, -1 to 1, of the rows of two matrices (N,D); NaN stays NaN.

    Raises:
        BlobexError: if the shapes differ, or a row is zero and so has no direction.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).tolist()
    [0.0]
    """
    if a.shape != b.shape or a.ndim != 2:
        raise BlobexError(f"features {tuple(a.shape)} and {tuple(b.shape)} must have one shape (N,D)")
    a, b = a.double(), b.double()
    norms = torch.stack([a.norm(dim=1), b.norm(dim=1)])
    empty = torch.nonzero((norms == 0).any(0))[:, 0]
    if len(empty):
        raise BlobexError(f"the features of pair {int(empty[0])} are all zero: the feature network is broken")
    return (a * b).sum(1).div(norms.prod(0)).clamp(-1, 1)


@torch.no_grad()
def similarity(queries: Tensor, counterfactuals: Tensor, features: Features, batch_size: int = 32) -> Tensor:
    """Compute the cosine similarities (N,) of the features of queries and counterfactuals (N,3,H,W) in [-1,1].

    `features` is called with at most `batch_size` images. Raises BlobexError if the shapes differ.

    >>> image = torch.rand(1, 3, 4, 4)
    >>> similarity(image, image, lambda images: images.flatten(1)).round(decimals=6).tolist()
    [1.0]
    """
    if queries.shape != counterfactuals.shape:
        raise BlobexError(
            f"queries {tuple(queries.shape)} and counterfactuals {tuple(counterfactuals.shape)} must have one shape"
        )
    batches = zip(queries.split(batch_size), counterfactuals.split(batch_size), strict=True)
    values = [cosine(features(query), features(answer)).cpu() for query, answer in batches if len(query)]
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)
