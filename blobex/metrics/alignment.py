"""Whether blobs are objects: whether taking out the blob that paints an object takes out that object and no other.

BlobGAN (Epstein et al., ECCV 2022, section 4.2) shows it by examples; here a parser counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.perception.boxes import Box, area
from blobex.perception.differences import SMALLEST, SURE, matches
from blobex.perception.reading import DetectedObject, SceneReading

GONE = -30.0  # size of a blob that is taken out: its opacity is below 1e-12


@dataclass(frozen=True)
class Removal:
    """An object of a picture, and the blob that is taken out for it."""

    picture: int
    thing: int  # number of the object among those that `counted` lists
    blob: int  # from 0


def counted(reading: SceneReading) -> list[DetectedObject]:
    """The objects that measures count: sure and not tiny, and no obstacles that are only inferred."""
    smallest = 2 * SMALLEST * math.prod(reading.size)
    return [
        each
        for each in reading.objects
        if each.category != "obstacle" and each.score >= SURE and area(each.box) >= smallest
    ]


def found_again(
    before: Sequence[SceneReading], after: Sequence[SceneReading], family: str | None = None
) -> list[float]:
    """1 for each counted object of the readings `before`, of one family if it is given, that `after` shows too, else 0.

    Their mean is a recall. What `after` shows may be unsure or small.
    """
    found = []
    for old, new in zip(before, after, strict=True):
        things = counted(old)
        paired = {i for i, _ in matches(things, new.objects, old.size[1])}
        found += [float(i in paired) for i, each in enumerate(things) if family in (None, each.family)]
    return found


def removals(readings: Sequence[SceneReading], scores: Tensor) -> list[Removal]:
    """One for each counted object: its blob is the one that paints the most of its box.

    `scores` (N,K+1,H,W) are the score maps of the pictures that were read, background first.
    """
    found = []
    for picture, reading in enumerate(readings):
        for thing, each in enumerate(counted(reading)):
            painted = scores[picture][:, *_inside(each.box)].sum((1, 2))
            found.append(Removal(picture, thing, int(painted[1:].argmax())))
    return found


def without(layout: BlobLayout, chosen: Sequence[Removal]) -> BlobLayout:
    """One layout per removal: its picture's, with the blob taken out."""
    layout = layout[[each.picture for each in chosen]]
    sizes = layout.sizes.clone()
    sizes[torch.arange(len(chosen)), [each.blob + 1 for each in chosen]] = GONE
    return layout.replace({"sizes": sizes})


def outcomes(
    before: Sequence[SceneReading], after: Sequence[SceneReading], chosen: Sequence[Removal]
) -> dict[str, list[float]]:
    """What removals did: `blob_removes_object` is 1 or 0 each, `others_stay` the share of the picture's other objects.

    `before` has a reading per picture, `after` one per removal. A picture with one object says nothing of others.
    """
    removed, stayed = [], []
    for reading, each in zip(after, chosen, strict=True):
        things = counted(before[each.picture])
        paired = {i for i, _ in matches(things, reading.objects, reading.size[1])}
        removed.append(float(each.thing not in paired))
        others = [float(i in paired) for i in range(len(things)) if i != each.thing]
        stayed += [float(np.mean(others))] if others else []
    return {"blob_removes_object": removed, "others_stay": stayed}


def alignment(
    layout: BlobLayout,
    image: Tensor,
    scores: Callable[[BlobLayout], Tensor],
    render: Callable[[BlobLayout], Tensor],
    read: Callable[[Tensor], list[SceneReading]],
    batch_size: int,
) -> dict[str, list[float]]:
    """`outcomes` of taking out the blob of each counted object of the renderings `image` (N,3,H,W) of a layout."""
    with torch.no_grad():
        before = read(image)
        chosen = removals(before, torch.cat([scores(part).cpu() for part in _parts(layout, batch_size)]))
        if not chosen:
            return {}
        edited = without(layout, chosen)
        rendered = torch.cat([render(part).cpu() for part in _parts(edited, batch_size)])
        return outcomes(before, read(rendered), chosen)


def _parts(layout: BlobLayout, size: int) -> list[BlobLayout]:
    return [layout[slice(start, start + size)] for start in range(0, len(layout), size)]


def _inside(box: Box) -> tuple[slice, slice]:
    """Rows and columns that a box covers, at least one of each."""
    x1, y1, x2, y2 = (math.floor(edge) if number < 2 else math.ceil(edge) for number, edge in enumerate(box))
    return slice(max(y1, 0), max(y2, y1 + 1, 1)), slice(max(x1, 0), max(x2, x1 + 1, 1))
