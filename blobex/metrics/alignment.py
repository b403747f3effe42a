"""Alignment of blobs with objects: does removing the blob that paints an object remove that object and no other?

BlobGAN (Epstein et al., ECCV 2022, section 4.2) shows examples; here a parser counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.metrics.interval import ValuesOfImages
from blobex.perception.boxes import Box, area
from blobex.perception.reading import DetectedObject, SceneReading
from blobex.perception.sentences import SMALLEST, SURE, matches

REMOVED = -30.0  # size of a removed blob: its opacity is below 1e-12


@dataclass(frozen=True)
class Removal:
    """Object of an image, and the blob that is removed with it."""

    image: int
    item: int  # index of the object among `counted_objects`
    blob: int  # from 0


def counted_objects(reading: SceneReading) -> list[DetectedObject]:
    """Return the objects that measures count: those that are sure, not tiny, and not merely inferred obstacles."""
    smallest = 2 * SMALLEST * math.prod(reading.size)
    return [
        item
        for item in reading.objects
        if item.category != "obstacle" and item.score >= SURE and area(item.box) >= smallest
    ]


def object_recall(
    before: Sequence[SceneReading], after: Sequence[SceneReading], family: str | None = None
) -> ValuesOfImages:
    """Return 1 for each counted object of `before`, or of one family, that `after` shows too, sure or not, else 0."""
    hits = ValuesOfImages(True)
    for image, (old, new) in enumerate(zip(before, after, strict=True)):
        objects = counted_objects(old)
        paired = {i for i, _ in matches(objects, new.objects, old.size[1])}
        hits.extend(str(image), [float(i in paired) for i, item in enumerate(objects) if family in (None, item.family)])
    return hits


def removals(readings: Sequence[SceneReading], scores: Tensor) -> list[Removal]:
    """Choose the blob that paints most of each counted object's box, by score maps (N,K+1,H,W), background first."""
    chosen = []
    for image, reading in enumerate(readings):
        for number, item in enumerate(counted_objects(reading)):
            painted = scores[image][:, *_covering(item.box)].sum((1, 2))
            chosen.append(Removal(image, number, int(painted[1:].argmax())))
    return chosen


def remove_blobs(layout: BlobLayout, chosen: Sequence[Removal]) -> BlobLayout:
    """Return one layout for each removal: its image's, without the blob."""
    layout = layout[[removal.image for removal in chosen]]
    sizes = layout.sizes.clone()
    sizes[torch.arange(len(chosen)), [removal.blob + 1 for removal in chosen]] = REMOVED
    return layout.replace({"sizes": sizes})


def outcomes(
    before: Sequence[SceneReading], after: Sequence[SceneReading], chosen: Sequence[Removal]
) -> dict[str, ValuesOfImages]:
    """Return `blob_removes_object`, 1 or 0 for each removal, and `others_stay`, the share of the other objects left.

    `before` has a reading for each image, `after` one for each removal. Images with one object have no others.
    """
    removed, stayed = ValuesOfImages(True), ValuesOfImages(False)
    for reading, removal in zip(after, chosen, strict=True):
        objects = counted_objects(before[removal.image])
        paired = {i for i, _ in matches(objects, reading.objects, reading.size[1])}
        removed.extend(str(removal.image), [float(removal.item not in paired)])
        others = [float(i in paired) for i in range(len(objects)) if i != removal.item]
        stayed.extend(str(removal.image), [float(np.mean(others))] if others else [])
    return {"blob_removes_object": removed, "others_stay": stayed}


def alignment(
    layout: BlobLayout,
    image: Tensor,
    scores: Callable[[BlobLayout], Tensor],
    render: Callable[[BlobLayout], Tensor],
    read: Callable[[Tensor], list[SceneReading]],
    batch_size: int,
) -> dict[str, ValuesOfImages]:
    """Remove the blob of each counted object, one at a time, and return the `outcomes`; {} without objects.

    `image` (N,3,H,W) are the layouts' renderings. `scores` and `render` map layouts to score maps (N,K+1,H,W) and to
    images, `batch_size` at once.
    """
    with torch.no_grad():
        before = read(image)
        chosen = removals(before, _in_batches(scores, layout, batch_size))
        if not chosen:
            return {}
        return outcomes(before, read(_in_batches(render, remove_blobs(layout, chosen), batch_size)), chosen)


def _in_batches(function: Callable[[BlobLayout], Tensor], layout: BlobLayout, size: int) -> Tensor:
    return torch.cat([function(layout[slice(at, at + size)]).cpu() for at in range(0, len(layout), size)])


def _covering(box: Box) -> tuple[slice, slice]:
    """Return the rows and columns that a box touches, at least one of each."""
    x1, y1, x2, y2 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    return slice(max(y1, 0), max(y2, y1 + 1, 1)), slice(max(x1, 0), max(x2, x1 + 1, 1))
