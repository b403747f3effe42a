"""Masks of the layout entries that may change, by blob or by a region of each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import build_masks, check_mask_rows
from blobex.explain.input_images import InvertedImages
from blobex.explain.request import Plan
from blobex.layout.vector import VectorForm
from blobex.networks.parser import Parser
from blobex.optim.batching import State, in_batches
from blobex.optim.network_callables import Scores
from blobex.perception.regions import painting_blobs, region_mask


def region_masks(text: str, names: Sequence[str], queries: Tensor, parser: Parser | None) -> list[Tensor]:
    """Return the region, bool (H,W), that `text` means in each of N images (N,3,H,W), as `region_mask` does."""
    regions = []
    for name, query in zip(names, queries, strict=True):
        with torch.no_grad():
            output = parser(query[None]) if parser else None
        with image_named(name):
            regions.append(region_mask(text, query.shape[1], query.shape[2], output))
    return regions


def listed_masks(plan: Plan, blobs: int) -> dict[str, Tensor]:
    """Return the masks of a plan without a region; `blobs` is the number of blobs of a layout."""
    return build_masks(blobs, plan.variant.keys, plan.blobs, plan.variant.background)


def layout_masks(
    plan: Plan, images: InvertedImages, compute_scores: Scores, parser: Parser | None, rows: int
) -> dict[str, Tensor]:
    """Return the masks of a plan for images; with a region, of the blobs that paint it.

    Raises:
        BlobexError: A region is not found, or painted by no blob that may change.
    """
    layout = images.inversion.layout
    if plan.request.only is None:
        masks = listed_masks(plan, layout.blobs)
        check_mask_rows(masks, len(images))
        return masks
    form = VectorForm.of(layout)

    def compute(vector: Tensor) -> State:
        return {"scores": compute_scores(form.unflatten(vector))}

    scores = in_batches(compute, rows, form.flatten(layout))["scores"]
    regions = region_masks(plan.request.only, images.names, images.queries, parser)
    blobs, backgrounds = list[list[int]](), list[bool]()
    for name, painted, region in zip(images.names, scores, regions, strict=True):
        with image_named(name):
            (chosen,), (background,) = painting_blobs(painted[None], region[None], background=plan.variant.background)
        blobs.append(chosen)
        backgrounds.append(background)
    return build_masks(layout.blobs, plan.variant.keys, blobs, backgrounds)


@contextmanager
def image_named(name: str) -> Iterator[None]:
    """Prefix errors raised in the block with an image's name."""
    try:
        yield
    except BlobexError as error:
        raise BlobexError(f"{name}: {error}") from error
