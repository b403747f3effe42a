"""Segments of an image from its label maps, described by their moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blobex.scenes.labels import DRIVABLE, SEMANTIC

MIN_SHARE = 1 / 1500  # smallest segment, as a share of the image's pixels
CUT_REACH = 1 / 8  # a patch that extends farther than this share of the width to both sides of the middle is cut there

ROADS = {
    "lane": DRIVABLE.index("direct"),
    "side_lane": DRIVABLE.index("alternative"),
    "road": DRIVABLE.index("background"),
}
STUFF = {  # one segment left and one right of the middle
    "verge": ("sidewalk", "terrain"),
    "building": ("building", "wall"),
    "vegetation": ("vegetation",),
}
SINGLE = {  # one segment
    "pole": ("pole",),
    "sign": ("traffic sign",),
    "light": ("traffic light",),
    "fence": ("fence",),
}
THINGS = {  # one segment per thing
    "person": ("person",),
    "vehicle": ("rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
GROUPS = (*ROADS, *STUFF, *SINGLE, *THINGS)  # the sky has no group: the background renders it
ROAD = SEMANTIC.index("road")
RIDER, TWO_WHEELERS = "rider", ("bicycle", "motorcycle")
TOUCHING = 2  # pixels from a rider to its vehicle, at most


@dataclass(frozen=True)
class Segment:
    """Moments of a region. Lengths are in image heights, x to the right and y down from the upper left corner."""

    group: str  # one of GROUPS
    x: float  # mean of its pixels
    y: float
    xx: float  # variance of x, variance of y, covariance
    yy: float
    xy: float
    area: float  # squared image heights


def extract_segments(semantic: np.ndarray, things: np.ndarray, drivable: np.ndarray) -> list[Segment]:
    """Return the segments of an image from its maps (H,W).

    `semantic` and `drivable` hold categories of `scenes.labels`, `things` the number of each thing, 0 for stuff.
    """
    masks = segment_masks(semantic, things, drivable)
    return [segment_from_mask(group, mask) for group, mask in masks]


def segment_masks(semantic: np.ndarray, things: np.ndarray, drivable: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return the group and mask (H,W) bool of each segment of `extract_segments`, the things in their order last."""
    masks = [*_road(semantic, drivable)]
    for group, names in STUFF.items():
        masks += [(group, half) for half in _halves(_category_mask(semantic, names), cut=True)]
    masks += [(group, _category_mask(semantic, names)) for group, names in SINGLE.items()]
    for name, mask in _things(semantic, things):
        masks += [(group, mask) for group, names in THINGS.items() if name in names]
    return [(group, mask) for group, mask in masks if mask.sum() >= max(MIN_SHARE * mask.size, 4)]


def _things(semantic: np.ndarray, things: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return name and mask of each thing; a rider is part of the bicycle or motorcycle that it touches most."""
    from scipy import ndimage  # slow to import

    named = []
    for number in range(1, int(things.max()) + 1):
        mask = things == number
        if mask.any():
            counts = np.bincount(semantic[mask], minlength=len(SEMANTIC))[: len(SEMANTIC)]
            named.append((SEMANTIC[int(counts.argmax())], mask))
    whole = {place: mask for place, (name, mask) in enumerate(named) if name != RIDER}
    for place, (name, mask) in enumerate(named):
        if name == RIDER:
            near = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=TOUCHING)
            touched = {other: (near & named[other][1]).sum() for other in whole if named[other][0] in TWO_WHEELERS}
            vehicle = max(touched, key=lambda other: touched[other], default=place)
            if not touched.get(vehicle):
                whole[place] = mask
            else:
                whole[vehicle] = whole[vehicle] | mask
    return [(named[place][0], whole[place]) for place in sorted(whole)]


def segment_from_mask(group: str, mask: np.ndarray) -> Segment:
    """Return the moments of a mask (H,W) with at least one pixel. A pixel counts as a square, not as a point."""
    rows, columns = np.nonzero(mask)
    height = mask.shape[0]
    y, x = rows / height, columns / height  # the grid of `layout.splat`
    pixel = 1 / (12 * height * height)
    mean_x, mean_y = float(x.mean()), float(y.mean())
    return Segment(
        group=group,
        x=mean_x,
        y=mean_y,
        xx=float(x.var()) + pixel,
        yy=float(y.var()) + pixel,
        xy=float(((x - mean_x) * (y - mean_y)).mean()),
        area=len(rows) / (height * height),
    )


def _road(semantic: np.ndarray, drivable: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Masks of the ego lane, the lanes left and right of it, and the rest of the road left and right."""
    road = semantic == ROAD
    lane = (drivable == ROADS["lane"]) & road
    sides = _halves((drivable == ROADS["side_lane"]) & road, cut=False)
    rest = _halves((drivable == ROADS["road"]) & road, cut=True)
    return [("lane", lane), *(("side_lane", half) for half in sides), *(("road", half) for half in rest)]


def _halves(mask: np.ndarray, cut: bool) -> tuple[np.ndarray, np.ndarray]:
    """Patches of a mask left and right of the image's middle; with `cut`, patches across the middle are cut."""
    from scipy import ndimage  # slow to import

    width = mask.shape[1]
    columns = np.arange(width)
    patches, count = ndimage.label(mask, np.ones((3, 3)))
    halves = np.zeros_like(mask), np.zeros_like(mask)
    for number in range(1, count + 1):
        patch = patches == number
        covered = np.flatnonzero(patch.any(axis=0))
        left, right = width / 2 - covered[0], covered[-1] + 1 - width / 2
        if cut and min(left, right) > CUT_REACH * width:
            halves[0][:] |= patch & (columns < width / 2)
            halves[1][:] |= patch & (columns >= width / 2)
        else:
            halves[int(np.nonzero(patch)[1].mean() >= width / 2)][:] |= patch
    return halves


def _category_mask(semantic: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    return np.isin(semantic, [SEMANTIC.index(name) for name in names])
