"""Blobs that may change, chosen by a region of each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import build_masks
from blobex.explain.request import Plan
from blobex.networks.parser import Parser
from blobex.perception.regions import painting_blobs, region_mask


def region_masks(text: str, names: Sequence[str], queries: Tensor, parser: Parser | None) -> list[Tensor]:
    """Return the region, bool (H,W), that `text` means in each of N images (N,3,H,W); see `region_mask`.

    Raises:
        BlobexError: As `region_mask`, with the image's name.
    """
    regions = []
    for name, query in zip(names, queries, strict=True):
        with torch.no_grad():
            output = parser(query[None]) if parser else None
        with image_named(name):
            regions.append(region_mask(text, query.shape[1], query.shape[2], output))
    return regions


def layout_masks(plan: Plan, names: Sequence[str], scores: Tensor, regions: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return masks of the layout entries that may change: those of the blobs that paint the regions.

    Args:
        scores: Score maps (N,K+1,H,W), background first.
        regions: N masks, bool (H,W).

    Raises:
        BlobexError: A region is painted by no blob that may change.
    """
    blobs, backgrounds = list[list[int]](), list[bool]()
    for name, painted, region in zip(names, scores, regions, strict=True):
        with image_named(name):
            (chosen,), (background,) = painting_blobs(painted[None], region[None], background=plan.variant.background)
        blobs.append(chosen)
        backgrounds.append(background)
    return build_masks(scores.shape[1] - 1, plan.variant.keys, blobs, backgrounds)


@contextmanager
def image_named(name: str) -> Iterator[None]:
    """Prefix errors raised in the block with an image's name."""
    try:
        yield
    except BlobexError as error:
        raise BlobexError(f"{name}: {error}") from error
