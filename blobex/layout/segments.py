"""From label maps to segments: what a picture shows, part by part, each as the ellipse that its pixels make."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from blobex.scenes.labels import DRIVABLE, SEMANTIC

LEAST = 1 / 1500  # share of the picture's pixels from which a patch is a segment
ACROSS = 1 / 8  # of the width: a patch that reaches farther than this to both sides of the middle is cut there

ROADS = {
    "lane": DRIVABLE.index("direct"),
    "side_lane": DRIVABLE.index("alternative"),
    "road": DRIVABLE.index("background"),
}
STUFF = {  # groups whose patches are taken together, those left of the middle and those right of it
    "verge": ("sidewalk", "terrain"),
    "building": ("building", "wall"),
    "vegetation": ("vegetation",),
}
SINGLE = {  # groups whose patches are taken together
    "pole": ("pole",),
    "sign": ("traffic sign",),
    "light": ("traffic light",),
    "fence": ("fence",),
}
THINGS = {  # groups whose things are segments of their own
    "person": ("person",),
    "vehicle": ("rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
GROUPS = (*ROADS, *STUFF, *SINGLE, *THINGS)  # the sky is nobody's: it is the background
ROAD = SEMANTIC.index("road")


@dataclass(frozen=True)
class Segment:
    """One part of a picture. Lengths in picture heights, x to the right and y down from the upper left corner."""

    group: str  # one of GROUPS
    x: float  # mean of its pixels
    y: float
    xx: float  # variance of x, of y, and their covariance
    yy: float
    xy: float
    area: float  # squared picture heights


def extract_segments(semantic: np.ndarray, things: np.ndarray, drivable: np.ndarray) -> list[Segment]:
    """The segments of a picture from its maps (H,W) of labels.SEMANTIC, thing numbers (0: none) and labels.DRIVABLE."""
    found = [*_road(semantic, drivable)]
    for group, names in STUFF.items():
        found += [(group, half) for half in _halves(_named(semantic, names), cut=True)]
    found += [(group, _named(semantic, names)) for group, names in SINGLE.items()]
    for number in range(1, int(things.max()) + 1):
        mask = things == number
        if mask.any():
            name = SEMANTIC[int(np.bincount(semantic[mask], minlength=len(SEMANTIC))[: len(SEMANTIC)].argmax())]
            found += [(group, mask) for group, names in THINGS.items() if name in names]
    return [segment_from_mask(group, mask) for group, mask in found if mask.sum() >= max(LEAST * mask.size, 4)]


def segment_from_mask(group: str, mask: np.ndarray) -> Segment:
    """The moments of a mask (H,W) that marks at least one pixel; a pixel is a square, not a point."""
    rows, columns = np.nonzero(mask)
    height = mask.shape[0]
    y, x = rows / height, columns / height  # as `layout.splat` has its grid
    pixel = 1 / (12 * height * height)
    middle_x, middle_y = float(x.mean()), float(y.mean())
    return Segment(
        group=group,
        x=middle_x,
        y=middle_y,
        xx=float(x.var()) + pixel,
        yy=float(y.var()) + pixel,
        xy=float(((x - middle_x) * (y - middle_y)).mean()),
        area=len(rows) / (height * height),
    )


def _road(semantic: np.ndarray, drivable: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The ego lane, the lanes beside it left and right, and the rest of the road left and right."""
    road = semantic == ROAD
    lane = (drivable == ROADS["lane"]) & road
    sides = _halves((drivable == ROADS["side_lane"]) & road, cut=False)
    rest = _halves((drivable == ROADS["road"]) & road, cut=True)
    return [("lane", lane), *(("side_lane", half) for half in sides), *(("road", half) for half in rest)]


def _halves(mask: np.ndarray, cut: bool) -> tuple[np.ndarray, np.ndarray]:
    """The patches of a mask left and right of the picture's middle; with `cut`, those across the middle are cut."""
    width = mask.shape[1]
    columns = np.arange(width)
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    halves = np.zeros_like(mask), np.zeros_like(mask)
    for number in range(1, count + 1):
        patch = parts == number
        reached = np.flatnonzero(patch.any(axis=0))
        left, right = width / 2 - reached[0], reached[-1] + 1 - width / 2
        if cut and min(left, right) > ACROSS * width:
            halves[0][:] |= patch & (columns < width / 2)
            halves[1][:] |= patch & (columns >= width / 2)
        else:
            halves[int(np.nonzero(patch)[1].mean() >= width / 2)][:] |= patch
    return halves


def _named(semantic: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.isin(semantic, [SEMANTIC.index(name) for name in names])
