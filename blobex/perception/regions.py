"""Regions of an image, given as coordinates, as a mask image, or as the name of an object.

A region is a bool tensor (H,W) on the CPU. Coordinates are shares of the image as it is explained, after cropping.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.config.messages import abbreviated
from blobex.core.errors import BlobexError
from blobex.datasets.images import ENDINGS, fit, load_image
from blobex.networks.parser import ParserOutput
from blobex.perception.boxes import box_mask
from blobex.perception.object_masks import object_mask

BOX = "left,top,right,bottom"
FORMS = f"{BOX} or x,y x,y x,y ... as shares of the image from 0 to 1, or a mask image"
WHITE = 128  # least brightness of a mask's pixels that belong to the region


def region_mask(text: str, height: int, width: int, output: ParserOutput | None = None, index: int = 0) -> Tensor:
    """Return the region that a text describes, bool (height,width): an object's name, or a form of `parse_region`.

    Objects need the parser's output that holds the image, at `index`.

    Raises:
        BlobexError: as `object_mask` and `parse_region`, or if an object is named without a parser's output.

    >>> region_mask("0,0,0.5,1", height=2, width=4).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    if not re.fullmatch(r"[A-Za-z ]*[A-Za-z][A-Za-z ]*", text):
        return parse_region(text, height, width)
    if output is None:
        raise BlobexError(f"region {abbreviated(text)} is a name, which takes a trained parser: give {FORMS}")
    return object_mask(text, output, index)


def parse_region(text: str, height: int, width: int) -> Tensor:
    """Return the region of a box, a polygon or a mask image, bool (height,width).

    A pixel belongs to a box or polygon that holds its centre. A polygon that crosses itself is filled by the even-odd
    rule. A mask image shows the uncropped photo; it is cropped and resized as photos are, and its white pixels count.

    Raises:
        BlobexError: if the text has none of these forms, a share is below 0 or above 1, there are fewer than three
            corners, or no pixel is inside.

    >>> parse_region("0,0 1,0 0,1", height=4, width=4).int().tolist()  # a triangle
    [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """
    try:
        points = [tuple(float(number) for number in point.split(",")) for point in text.split()]
    except ValueError as error:
        if Path(text).suffix.lower() in ENDINGS or _is_file(text):
            return _white_pixels(text, height, width)
        raise BlobexError(f"region {abbreviated(text)}: give {FORMS}") from error
    if not points or {len(point) for point in points} not in ({4}, {2}) or (len(points[0]) == 4 and len(points) > 1):
        raise BlobexError(f"region {abbreviated(text)}: give {FORMS}")
    if not all(0 <= number <= 1 for point in points for number in point):  # false for NaN, too
        raise BlobexError(f"region {abbreviated(text)} reaches out of the image: give shares from 0 to 1")
    if len(points[0]) == 2 and len(points) < 3:
        raise BlobexError(f"region {abbreviated(text)} has fewer than three corners: give more, or {BOX}")
    if len(points[0]) == 4:
        left, top, right, bottom = points[0]
        inside = box_mask((left * width, top * height, right * width, bottom * height), height, width)
    else:
        inside = _polygon_mask(points, height, width)
    if not inside.any():
        raise BlobexError(f"region {abbreviated(text)} holds no pixel of {height}x{width}: make it larger")
    return torch.from_numpy(inside)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a file name may be
        return False


def _white_pixels(path: str, height: int, width: int) -> Tensor:
    inside = torch.from_numpy(fit(load_image(path), height, width).mean(2) >= WHITE)
    if not inside.any():
        raise BlobexError(f"the mask {path} has no white in the part that is explained: paint the region white")
    return inside


def _polygon_mask(corners: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """Mark the pixels from whose centre a ray to the right crosses an odd number of edges."""
    x, y = ((np.arange(size) + 0.5) / size for size in (width, height))
    inside = np.zeros((height, width), dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        crossed = (y >= y1) != (y >= y2)
        crossing = x1 + (y - y1) * (x2 - x1) / (y2 - y1 or 1.0)
        inside ^= crossed[:, None] & (x < crossing[:, None])
    return inside
