"""Scene readings from a parser's output, or from true labels.

Objects are the detected boxes and patches of fence. Anything else that hides a part of the ego lane near the camera
becomes an obstacle of unknown kind, so that nothing in the way is overlooked for want of a category.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.networks.parser import Detections, ParserOutput, detections
from blobex.perception.boxes import Box, bounding_box, crop, iou
from blobex.perception.colours import hsv, is_red, light_colour
from blobex.perception.ground import ALTERNATIVE, DIRECT, SIGNALS, Ground, fit_ground, pixel_grid, place_of, read_line
from blobex.perception.reading import DetectedObject, SceneReading
from blobex.scenes.labels import DETECTION, SEMANTIC
from blobex.scenes.rules import NEAR

LEAST_SCORE = 0.2  # of a detected box
DUPLICATE = 0.5  # intersection over union from which two boxes of one family are one object
FENCE = SEMANTIC.index("fence")
FENCE_SHARE = 1 / 1000  # least share of the image's pixels of a patch of fence
CLEAR = (11.0, NEAR)  # metres ahead in which the ego lane shows unless something stands nearer
HALF_WIDTH = 1.0  # metres to both sides of the lane's middle that an obstacle must hide
HIDDEN = 0.15  # share of that area that an obstacle hides at least
STOP_RED = 0.25  # least share of red pixels of a stop sign


def read_scenes(output: ParserOutput, images: Tensor) -> list[SceneReading]:
    """Read the scenes in images (N,3,H,W) uint8 from a parser's output; BlobexError if it is of other images."""
    semantic, drivable = (maps.argmax(1).cpu().numpy() for maps in (output.semantic, output.drivable))
    arrays = images.cpu().numpy().transpose(0, 2, 3, 1)
    if arrays.shape[:3] != semantic.shape:
        raise BlobexError(
            f"images of shape {arrays.shape[:3]} do not match a parser's output of {semantic.shape}: give the images "
            "that it saw"
        )
    boxes = detections(output, LEAST_SCORE)
    return [read_scene(*maps) for maps in zip(boxes, semantic, drivable, arrays, strict=True)]


def read_scene(boxes: Detections, semantic: np.ndarray, drivable: np.ndarray, image: np.ndarray) -> SceneReading:
    """Read one scene from an image (H,W,3) uint8 with its boxes and label maps (H,W), predicted or true."""
    ground = fit_ground(drivable)
    objects = _unique([_detected(boxes, row, semantic, image, ground) for row in range(len(boxes.scores))])
    objects += [_patch("fence", mask, image, ground) for mask in fence_patches(semantic)]
    if not any(item.place == "ahead" and item.near for item in objects):
        objects += [_patch("obstacle", mask, image, ground) for mask in _obstacles(drivable, ground)]
    lights = [item for item in objects if item.category == "traffic light"]
    signs = [item for item in objects if item.category == "traffic sign"]
    counts = np.bincount(semantic.ravel(), minlength=len(SEMANTIC))[: len(SEMANTIC)] / semantic.size
    return SceneReading(
        objects=tuple(objects),
        light=light_colour(crop(image, lights[0].box)) if lights else "none",
        stop_sign=any(_is_stop_sign(crop(image, sign.box)) for sign in signs),
        line_left=read_line(-1, ground, image, semantic, drivable),
        line_right=read_line(1, ground, image, semantic, drivable),
        areas=dict(zip(SEMANTIC, counts.tolist(), strict=True)),
        direct=float((drivable == DIRECT).mean()),
        alternative=float((drivable == ALTERNATIVE).mean()),
        ground=ground,
        size=(semantic.shape[0], semantic.shape[1]),
    )


def fence_patches(semantic: np.ndarray) -> list[np.ndarray]:
    """Return a mask (H,W) for each patch of fence. Gaps of up to two pixels, as between boards, do not divide a patch.

    >>> [patch.sum().item() for patch in fence_patches(np.array([[FENCE, 0, FENCE, 0, 0, 0, FENCE]]))]
    [2, 1]
    """
    from scipy import ndimage  # slow to import

    fence = semantic == FENCE
    labels, count = ndimage.label(ndimage.binary_dilation(fence, np.ones((3, 3))), np.ones((3, 3)))
    masks = [fence & (labels == number) for number in range(1, count + 1)]
    return [mask for mask in masks if mask.sum() >= FENCE_SHARE * mask.size]


def _obstacles(drivable: np.ndarray, ground: Ground) -> list[np.ndarray]:
    """Return the mask of what hides the ego lane near the camera; nothing if the lane is clear or not found at all."""
    x, y = pixel_grid(*drivable.shape)
    lane = (ground.distance(y) < CLEAR[1]) & (np.abs(ground.lateral(x, y)) < HALF_WIDTH)
    hidden = lane & (drivable != DIRECT)
    beyond = lane & (ground.distance(y) > CLEAR[0])
    if not beyond.any() or hidden[beyond].mean() < HIDDEN or hidden[lane].mean() > 1 - HIDDEN:
        return []
    return [hidden]


def _detected(boxes: Detections, row: int, semantic: np.ndarray, image: np.ndarray, ground: Ground) -> DetectedObject:
    category, box = DETECTION[int(boxes.categories[row])], cast(Box, tuple(boxes.boxes[row].tolist()))
    mask = crop(semantic, box) == SEMANTIC.index("person" if category == "pedestrian" else category)
    return _object(category, box, float(boxes.scores[row]), mask, image, ground)


def _patch(category: str, mask: np.ndarray, image: np.ndarray, ground: Ground) -> DetectedObject:
    box = bounding_box(mask)
    return _object(category, box, 1.0, crop(mask, box), image, ground)


def _object(
    category: str, box: Box, score: float, mask: np.ndarray, image: np.ndarray, ground: Ground
) -> DetectedObject:
    """Build an object from its box and the mask of its pixels within the box; an empty mask stands for all of them."""
    height, width = image.shape[:2]
    pixels = crop(image, box)
    own = pixels[mask] if mask.any() else pixels.reshape(-1, 3)
    return DetectedObject(
        category=category,
        box=box,
        score=score,
        colour=cast(tuple[int, int, int], tuple(int(value) for value in np.median(own, axis=0))),
        place=place_of(category, box, ground, height, width),
        lateral=ground.foot(box, height, width),
        distance=float("inf") if category in SIGNALS else float(ground.distance(box[3] / height)),
    )


def _unique(objects: list[DetectedObject]) -> list[DetectedObject]:
    """Drop all but the surest of boxes of one family that overlap, and riders who overlap a cycle."""
    unique: list[DetectedObject] = []
    for item in sorted(objects, key=lambda item: -item.score):
        if all(item.family != other.family or iou(item.box, other.box) < DUPLICATE for other in unique):
            unique.append(item)
    cycles = [item.box for item in unique if item.family == "cycle"]
    return [item for item in unique if item.category != "rider" or all(iou(item.box, box) == 0 for box in cycles)]


def _is_stop_sign(pixels: np.ndarray) -> bool:
    hue, saturation, _ = hsv(pixels)
    return bool(((saturation > 0.4) & is_red(hue)).mean() >= STOP_RED)
