"""Differences between two images that show in their pixels: those that do, what changed most first.

A parser may read an object otherwise because of what changed elsewhere; such a difference is none of the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import numpy as np

from blobex.core.errors import BlobexError
from blobex.perception.boxes import box_mask
from blobex.perception.colours import colour_name
from blobex.perception.ground import LINE_RANGE, NEXT_LANE, NEXT_LANE_FAR, ONCOMING, PAINT, pixel_grid
from blobex.perception.reading import SKY, SceneReading, is_night
from blobex.perception.sentences import GREW, RECOLOURED, ObjectChange, differences
from blobex.scenes.scene import LANE_WIDTH

UNSEEN = 3.0  # grey levels: mean change of pixels below which an object looks the same
AREA = ("grew", "shrank")
LANES = ("road", "ego lane", "other lanes")
LEAST_SKY = 0.05  # share of the image that must be sky for its colour to be told
VERGES = {"terrain": "grass", "sidewalk": "sidewalk"}
PAINTED = ("dashed", "solid")


def visible_differences(
    before: SceneReading, after: SceneReading, image_before: np.ndarray, image_after: np.ndarray
) -> list[ObjectChange]:
    """List what changed between two images (H,W,3) uint8 and shows: areas last, else what changed most first.

    Of the `differences` of their readings these are the ones whose own pixels differ by UNSEEN on average. A new light
    or colour of the sky, night and day, another verge, and another line of the lane come instead of the differences
    that follow from them. Raises BlobexError if the images differ in size.
    """
    if image_before.shape != image_after.shape:
        raise BlobexError(f"images of {image_before.shape} and {image_after.shape} cannot be compared: give equal ones")
    changed = np.abs(image_after.astype(np.float32) - image_before.astype(np.float32)).mean(2)
    scene = *_light(before, image_before, image_after, changed), *_verge(before, after)
    strengths = [(_strength(each, before, after, changed), each) for each in (*scene, *differences(before, after))]
    shown = [(strength, change) for strength, change in strengths if strength]
    things = {
        "line" if change.thing.endswith(" line") else change.thing for _, change in shown if change.what == "turned"
    }
    shown = [pair for pair in shown if not _follows(pair[1], things)]
    return [change for _, change in sorted(shown, key=lambda pair: (pair[1].what in AREA, -pair[0]))]


def _follows(change: ObjectChange, turned: set[str]) -> bool:
    """Return whether a change follows from those of the whole scene, the sky, the verge or a line, as far as turned."""
    if "scene" in turned and change.what in ("recoloured", *AREA):
        return True
    areas = {"sky": ("sky",), "verge": tuple(VERGES), "line": LANES}
    return change.what in AREA and any(change.thing in areas.get(thing, ()) for thing in turned)


def _strength(change: ObjectChange, before: SceneReading, after: SceneReading, changed: np.ndarray) -> float:
    """Return the sum of the changes (H,W) of an object's pixels, in grey levels; 0 if they cannot be seen."""
    if change.what in AREA or change.thing == "verge":  # at most the pixels that changed most
        count = max(1, round(abs(change.amount) * changed.size))
        pixels = np.partition(changed.ravel(), -count)[-count:]
    elif change.thing in ("scene", "sky"):
        pixels = changed.ravel() if change.thing == "scene" else changed[: _sky_rows(changed)].ravel()
    else:
        pixels = changed[_region(change, before, after)]
    return float(pixels.sum()) if pixels.size and pixels.mean() >= UNSEEN else 0.0


def _region(change: ObjectChange, before: SceneReading, after: SceneReading) -> np.ndarray:
    """Return the pixels (H,W) bool of a changed object or line; all of them if its place is unknown."""
    height, width = before.size
    if change.box is not None:
        return box_mask(change.box, height, width)
    if change.thing.endswith(" line"):
        return _line_region(change, before)
    category = {"light": "traffic light", "stop sign": "traffic sign"}.get(change.thing, change.thing)
    boxes = [item.box for reading in (before, after) for item in reading.objects if item.category == category]
    masks = [box_mask(box, height, width) for box in boxes]
    return np.logical_or.reduce(masks) if masks else np.ones(before.size, dtype=bool)


def _line_region(change: ObjectChange, before: SceneReading) -> np.ndarray:
    """Return the pixels of a lane's line, and, unless only its paint changed, of what lies beyond it."""
    side, (x, y) = -1 if change.thing.startswith("left") else 1, pixel_grid(*before.size)
    ahead, across = before.ground.distance(y), side * before.ground.lateral(x, y)
    if change.before in PAINTED and change.after in PAINTED:
        return (np.abs(across - LANE_WIDTH / 2) < PAINT) & (ahead < LINE_RANGE[1])
    return (across > LANE_WIDTH / 2 - PAINT) & (across < max(NEXT_LANE[1], ONCOMING[1])) & (ahead < NEXT_LANE_FAR)


def _light(
    before: SceneReading, image_before: np.ndarray, image_after: np.ndarray, changed: np.ndarray
) -> Iterator[ObjectChange]:
    """Yield the change of day and night if the ground shows it, too, else that of the sky's colour."""
    was, now = ("night" if is_night(image) else "day" for image in (image_before, image_after))
    if was != now and changed[len(changed) // 2 :].mean() >= UNSEEN:
        yield _turned("scene", was, now)
        return
    if before.areas["sky"] < LEAST_SKY:
        return
    colours = [np.median(image[: _sky_rows(image)].reshape(-1, 3), axis=0) for image in (image_before, image_after)]
    was, now = (colour_name(cast(tuple[int, int, int], tuple(map(int, colour)))) for colour in colours)
    if was != now and math.dist(*colours) >= RECOLOURED:
        yield _turned("sky", was, now)


def _verge(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    """Yield the change from a grass verge to a sidewalk or back."""
    kinds = [max(VERGES, key=areas.__getitem__) for areas in (before.areas, after.areas)]
    if kinds[0] != kinds[1]:
        lost, won = (abs(after.areas[kind] - before.areas[kind]) for kind in kinds)
        if min(lost, won) >= GREW:
            yield _turned("verge", VERGES[kinds[0]], VERGES[kinds[1]], min(lost, won))


def _sky_rows(image: np.ndarray) -> int:
    return max(1, int(SKY * len(image)))


def _turned(thing: str, before: str, after: str, amount: float = 1.0) -> ObjectChange:
    return ObjectChange("turned", thing, thing, "", before, after, amount)
