"""Measures of counterfactuals: COUT, similarity, diversity, and flip rates of a table of explanations.

COUT is the counterfactual transition score (Khorram and Fuxin, CVPR 2022). The similarity is S3 (Jeanneret et al., CVPR
2023, section 4) if the features are the outputs of SimSiam's projector.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blobex.core.errors import BlobexError

# Images (M,3,H,W) and their row numbers (M,) to probabilities (M,2) of the wanted and of the original outcome.
Scores = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def cout(queries: Tensor, counterfactuals: Tensor, scores: Scores, steps: int = 50, batch_size: int = 32) -> Tensor:
    """Compute COUT: the sooner the decision changes while pixels are replaced, the higher.

    Pixels of the query are replaced by those of the counterfactual, max(1, H W // `steps`) at a time, in the order of
    their absolute difference (sum over channels; ties by position), until all pixels are: those that do not differ come
    last, so that a small change is rewarded. COUT is the area under the curve of the wanted outcome's probability minus
    that of the original outcome's: the mean of the trapezoids of all intervals, of which the last may be narrower.

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
    bounds = [*range(0, size, max(1, size // steps)), size]
    area = torch.zeros(len(queries), device=queries.device)
    previous = _margin(queries, rows, scores)
    for start, end in itertools.pairwise(bounds):
        current = previous.clone()  # where no differing pixel is left, the image stays the counterfactual
        open_ = torch.nonzero(differing > start)[:, 0]
        if len(open_):
            replaced = (rank[open_] < end)[:, None]
            current[open_] = _margin(torch.where(replaced, counterfactuals[open_], queries[open_]), rows[open_], scores)
        area += (previous + current) / 2
        previous = current
    return area / (len(bounds) - 1)


def _margin(images: Tensor, rows: Tensor, scores: Scores) -> Tensor:
    """Return the wanted outcome's probability minus the original one's (M,) float32."""
    values = scores(images, rows)
    if values.shape != (len(images), 2):
        raise BlobexError(
            f"the scores have shape {tuple(values.shape)} instead of ({len(images)}, 2): give the probabilities of "
            "the wanted and of the original outcome"
        )
    return (values[:, 0] - values[:, 1]).float()


Features = Callable[[Tensor], Tensor]  # images (N,3,H,W) in [-1,1] to features (N,D)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Compute the cosine similarities (N,) float64, -1 to 1, of the rows of two matrices (N,D); NaN stays NaN.

    Raises BlobexError if the shapes differ, or a row is zero and so has no direction.

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


MEANS = ("perceptual", "l2", "proximity", "reconstruction_perceptual", "reconstruction_l2")


def explanation_measures(rows: Sequence[Mapping[str, Any]], distance: str) -> dict[str, float]:
    """Compute flip rates, agreement and mean distances from the rows of the table; BlobexError if there are none.

    Failed explanations count as not flipped, and are left out of the means. `flipped_by_change` counts the flips whose
    reconstruction passes the gate: others may be the reconstruction's effect. `flipped_full` is that of the
    counterfactuals rendered without the photo. `distance` replaces `perceptual` in the names of measures.
    """
    if not rows:
        raise BlobexError("the table of explanations is empty: run `dvc repro explain` again")
    valid = [row for row in rows if not row["failed"]]
    measures = {
        "explanations": float(len(rows)),
        "failed": 1 - len(valid) / len(rows),
        "flip_rate": _share(rows, "flipped"),
        "flipped_full": _share(rows, "flipped_full"),
        "flipped_by_change": sum(row["verdict"] == "flipped" and not row["gate"] for row in rows) / len(rows),
        "gated": _share(rows, "gate"),
        "reconstruction_agrees": _share(rows, "reconstruction_agrees"),
    }
    for attribute in sorted({row["attribute"] for row in rows}):
        measures[f"flip_rate_{attribute}"] = _share([row for row in rows if row["attribute"] == attribute], "flipped")
    measures["changed_blobs"] = sum(len(row["changed_blobs"]) for row in valid) / max(len(valid), 1)
    for name in MEANS if valid else ():
        measures[name.replace("perceptual", distance)] = float(np.mean([row[name] for row in valid], dtype=np.float64))
    return measures


def _share(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(bool(row[name]) for row in rows) / len(rows)
