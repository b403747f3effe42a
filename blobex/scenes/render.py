"""Rendering of a scene: image and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blobex.core.errors import BlobexError
from blobex.scenes import backdrop
from blobex.scenes.backdrop import LIGHT_INSTANCE
from blobex.scenes.canvas import Canvas
from blobex.scenes.labels import DRIVABLE, PANOPTIC, SEMANTIC, UNKNOWN
from blobex.scenes.rules import Cause, remove
from blobex.scenes.scene import Light, Scene
from blobex.scenes.traffic import paint_thing


@dataclass(frozen=True)
class Box:
    """Bounding box of the visible pixels of an object: x1 <= x < x2 and y1 <= y < y2."""

    category: str  # one of labels.DETECTION
    x1: float
    y1: float
    x2: float
    y2: float
    instance: int = 0
    occluded: bool = False
    truncated: bool = False
    light: str = "none"  # colour of a traffic light


@dataclass(frozen=True)
class Rendering:
    """Image of H rows and 2H columns, with its labels."""

    image: np.ndarray  # (H,2H,3) uint8
    semantic: np.ndarray  # (H,2H) uint8: labels.SEMANTIC or labels.UNKNOWN
    instance: np.ndarray  # (H,2H) uint16: thing's index + 1, its rider + 100; light 201, sign 202, stuff 0
    panoptic: np.ndarray  # (H,2H) uint8: labels.PANOPTIC
    drivable: np.ndarray  # (H,2H) uint8: labels.DRIVABLE
    boxes: tuple[Box, ...]


def render(scene: Scene, height: int = 64) -> Rendering:
    """Render a scene at `height` rows, even and from 16 to 1024, else BlobexError; columns are twice as many.

    >>> from blobex.scenes.sample import sample
    >>> render(sample(3)).image.shape
    (64, 128, 3)
    """
    if height % 2 or not 16 <= height <= 1024:
        raise BlobexError(f"height is {height}: it must be an even number from 16 to 1024")
    canvas = Canvas(scene, height)
    backdrop.paint_sky(canvas, scene)
    backdrop.paint_road(canvas, scene)
    backdrop.paint_buildings(canvas, scene)
    backdrop.paint_trees(canvas, scene)
    backdrop.paint_light(canvas, scene)
    backdrop.paint_sign(canvas, scene)
    for number in sorted(range(len(scene.things)), key=lambda number: -scene.things[number].distance):
        paint_thing(canvas, scene, number)
    backdrop.paint_rain(canvas, scene)
    image, indices, visible = canvas.finish()
    categories = [segment.category for segment in canvas.segments]
    semantic = [SEMANTIC.index(name) if name in SEMANTIC else UNKNOWN for name in categories]
    return Rendering(
        image=image,
        semantic=np.array(semantic, dtype=np.uint8)[indices],
        instance=np.array([segment.instance for segment in canvas.segments], dtype=np.uint16)[indices],
        panoptic=np.array([PANOPTIC.index(name) for name in categories], dtype=np.uint8)[indices],
        drivable=np.array([DRIVABLE.index(segment.drivable) for segment in canvas.segments], dtype=np.uint8)[indices],
        boxes=_boxes(canvas, indices, visible, scene.light),
    )


def cause_mask(scene: Scene, cause: Cause, height: int = 64, threshold: int = 24) -> np.ndarray:
    """Return the mask (H,2H) bool of a cause: pixels that change by more than `threshold` grey levels without it.

    >>> from dataclasses import replace
    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False)
    >>> mask = cause_mask(red, Cause("light"))
    >>> mask.shape, bool(mask.any())
    ((64, 128), True)
    """
    before, after = render(scene, height).image, render(remove(scene, cause), height).image
    return np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=2) > threshold


def _boxes(canvas: Canvas, indices: np.ndarray, visible: list[int], light: Light) -> tuple[Box, ...]:
    boxes = []
    for index, segment in enumerate(canvas.segments):
        if not segment.instance or segment.category == "fence":  # a barrier is no detection category
            continue
        mask = indices == index
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            continue
        category = "pedestrian" if segment.category == "person" else segment.category
        x1, y1, x2, y2 = (float(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        occluded, truncated = visible[index] < 0.95 * canvas.painted[index], canvas.truncated(index)
        colour = light if segment.instance == LIGHT_INSTANCE else "none"
        boxes.append(Box(category, x1, y1, x2, y2, segment.instance, occluded, truncated, colour))
    return tuple(boxes)
