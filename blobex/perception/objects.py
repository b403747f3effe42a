"""Read a picture's objects, light, lines and areas, from what the parser says of it or from true labels.

Detected boxes are objects, and so are patches of fence. Whatever else hides a part of the ego lane near the camera is
an obstacle of unknown kind, so that nothing in the way is overlooked for want of a category.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.networks.parser import Detections, ParserOutput, detections
from blobex.perception.colours import RED_HUES, hues, light_colour
from blobex.perception.ground import Ground, fit_ground, read_line
from blobex.perception.reading import Box, SceneReading, SeenObject, overlap
from blobex.scenes.labels import DETECTION, DRIVABLE, SEMANTIC
from blobex.scenes.rules import NEAR
from blobex.scenes.scene import LANE_WIDTH

SEEN = 0.2  # score from which a box is an object
SAME = 0.5  # overlap from which two boxes of one family are one object
FENCE = SEMANTIC.index("fence")
FENCE_SHARE = 1 / 1000  # of the picture's pixels, from which a patch of fence is an object
DIRECT, ALTERNATIVE = DRIVABLE.index("direct"), DRIVABLE.index("alternative")
CLEAR = (11.0, NEAR)  # metres ahead: the ego lane shows here unless something stands nearer
MIDDLE = 1.0  # metres to both sides of the lane's middle
HIDDEN = 0.15  # share of that patch that is not the lane if something hides it
SIGNALS = ("traffic light", "traffic sign")  # these do not stand on the road
STOP_RED = 0.25  # share of a traffic sign's pixels that are red if it is a stop sign


def read(output: ParserOutput, pictures: Tensor | np.ndarray) -> list[SceneReading]:
    """One reading per picture, from what the parser says of them; `pictures` are uint8, (N,H,W,3) or (N,3,H,W).

    BlobexError if there are not as many pictures, of the same size, as the parser saw.
    """
    arrays = _arrays(pictures)
    semantic, drivable = (maps.argmax(1).cpu().numpy() for maps in (output.semantic, output.drivable))
    if arrays.shape[:3] != semantic.shape:
        raise BlobexError(
            f"{len(arrays)} pictures of {arrays.shape[1]}x{arrays.shape[2]} do not go with a parser's output for "
            f"{len(semantic)} of {semantic.shape[1]}x{semantic.shape[2]}: give the pictures that it saw"
        )
    found = detections(output, SEEN)
    return [read_labels(*parts) for parts in zip(found, semantic, drivable, arrays, strict=True)]


def read_labels(found: Detections, semantic: np.ndarray, drivable: np.ndarray, picture: np.ndarray) -> SceneReading:
    """The reading of a picture (H,W,3) uint8 with these boxes and label maps (H,W), which may be true or predicted."""
    height, width = semantic.shape
    ground = fit_ground(drivable)
    seen = [_detected(found, row, semantic, picture, ground) for row in range(len(found.scores))]
    objects = _one_each(seen) + _fences(semantic, picture, ground)
    if not any(each.place == "ahead" and each.near for each in objects):
        objects += _obstacle(drivable, picture, ground)
    lights = [each for each in objects if each.category == "traffic light"]
    signs = [each for each in objects if each.category == "traffic sign"]
    counts = np.bincount(semantic.ravel(), minlength=len(SEMANTIC))[: len(SEMANTIC)] / semantic.size
    return SceneReading(
        objects=tuple(objects),
        light=light_colour(_cut(picture, lights[0].box)) if lights else "none",
        stop_sign=any(_red_share(_cut(picture, each.box)) >= STOP_RED for each in signs),
        line_left=read_line(-1, ground, picture, semantic, drivable),
        line_right=read_line(1, ground, picture, semantic, drivable),
        areas=dict(zip(SEMANTIC, counts.tolist(), strict=True)),
        direct=float((drivable == DIRECT).mean()),
        alternative=float((drivable == ALTERNATIVE).mean()),
        ground=ground,
        size=(height, width),
    )


def _detected(found: Detections, row: int, semantic: np.ndarray, picture: np.ndarray, ground: Ground) -> SeenObject:
    category, box = DETECTION[int(found.categories[row])], cast(Box, tuple(found.boxes[row].tolist()))
    mask = _cut(semantic, box) == SEMANTIC.index("person" if category == "pedestrian" else category)
    return _seen(category, box, float(found.scores[row]), mask, picture, ground)


def _fences(semantic: np.ndarray, picture: np.ndarray, ground: Ground) -> list[SeenObject]:
    """Pixels of fences that touch, or all but touch: a barrier's boards are apart."""
    fence = semantic == FENCE
    parts, count = ndimage.label(ndimage.binary_dilation(fence, np.ones((3, 3))), np.ones((3, 3)))
    objects = []
    for number in range(1, count + 1):
        mask = fence & (parts == number)
        if mask.sum() >= FENCE_SHARE * mask.size:
            objects.append(_patch("fence", mask, picture, ground))
    return objects


def _obstacle(drivable: np.ndarray, picture: np.ndarray, ground: Ground) -> list[SeenObject]:
    """What hides the ego lane near the camera, by the lane's pixels that do not show; none where no lane was found."""
    height, width = drivable.shape
    y = (np.arange(height) + 0.5)[:, None] / height
    x = (np.arange(width) + 0.5 - width / 2)[None] / height
    lane = (ground.distance(y) < CLEAR[1]) & (np.abs(ground.lateral(x, y)) < MIDDLE)
    hidden = lane & (drivable != DIRECT)
    beyond = lane & (ground.distance(y) > CLEAR[0])
    if not beyond.any() or hidden[beyond].mean() < HIDDEN or hidden[lane].mean() > 1 - HIDDEN:
        return []
    return [_patch("obstacle", hidden, picture, ground)]


def _patch(category: str, mask: np.ndarray, picture: np.ndarray, ground: Ground) -> SeenObject:
    """The pixels of a mask (H,W) as an object."""
    ys, xs = np.nonzero(mask)
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    return _seen(category, box, 1.0, _cut(mask, box), picture, ground)


def _seen(
    category: str,
    box: Box,
    score: float,
    mask: np.ndarray,
    picture: np.ndarray,
    ground: Ground,
) -> SeenObject:
    """`mask` marks the object's pixels within its box; where it marks none, all of them are taken."""
    height, width = picture.shape[:2]
    x1, y1, x2, y2 = box
    pixels = _cut(picture, box)
    own = pixels[mask] if mask.any() else pixels.reshape(-1, 3)
    foot = y2 / height
    edges = [float(ground.lateral((edge - width / 2) / height, foot)) for edge in (x1, x2)]
    lateral = sum(edges) / 2
    if (x1 <= 0) != (x2 >= width):  # cut off: its other edge says where it stands, as if it filled a lane
        lateral = edges[1] - LANE_WIDTH / 2 if x1 <= 0 else edges[0] + LANE_WIDTH / 2
    return SeenObject(
        category=category,
        box=(x1, y1, x2, y2),
        score=score,
        colour=cast(tuple[int, int, int], tuple(int(value) for value in np.median(own, axis=0))),
        lateral=lateral,
        distance=float("inf") if category in SIGNALS else float(ground.distance(foot)),
    )


def _one_each(seen: list[SeenObject]) -> list[SeenObject]:
    """The surest of boxes of one family that cover each other; a cycle and its rider are one object, the cycle."""
    kept: list[SeenObject] = []
    for each in sorted(seen, key=lambda item: -item.score):
        if all(each.family != other.family or overlap(each.box, other.box) < SAME for other in kept):
            kept.append(each)
    cycles = [each.box for each in kept if each.family == "cycle"]
    return [each for each in kept if each.category != "rider" or all(overlap(each.box, box) == 0 for box in cycles)]


def _cut(maps: np.ndarray, box: Box) -> np.ndarray:
    """The part (h,w,...) of a map or picture under a box; at least one pixel."""
    height, width = maps.shape[:2]
    x1, y1 = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return maps[y1 : max(round(box[3]), y1 + 1), x1 : max(round(box[2]), x1 + 1)]


def _red_share(pixels: np.ndarray) -> float:
    hue, saturation, _ = hues(pixels)
    return float(((saturation > 0.4) & ((hue < RED_HUES[1]) | (hue > RED_HUES[0]))).mean())


def _arrays(pictures: Tensor | np.ndarray) -> np.ndarray:
    array = pictures.cpu().numpy() if isinstance(pictures, torch.Tensor) else pictures
    if array.dtype != np.uint8 or array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
        raise BlobexError(
            f"pictures are {array.dtype} of shape {array.shape}: give uint8 of shape (N,H,W,3) or (N,3,H,W)"
        )
    return array if array.shape[3] == 3 else array.transpose(0, 2, 3, 1)
