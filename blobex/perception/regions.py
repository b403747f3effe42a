"""Regions of an image, given as coordinates, mask image or name of an object, and the blobs that paint them.

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
SHARE = 0.1  # least share of the region that a blob must paint to be chosen
INSIDE, LEAST_INSIDE = 0.5, 0.02  # or this share of all that it paints lies there, and it paints that share of it
LAST_RESORT = 0.05  # share of the region that the strongest blob must paint if no other is chosen
BACKGROUND = 0.5  # share of the region that the background must paint to count


def region_mask(text: str, height: int, width: int, output: ParserOutput | None = None, index: int = 0) -> Tensor:
    """Return the region that a text describes, bool (height,width): an object's name, or a form of `parse_region`.

    Objects need the parser's output that holds the image, at `index`. Raises BlobexError as `object_mask` and
    `parse_region`, or if an object is named without a parser's output.

    >>> region_mask("0,0,0.5,1", height=2, width=4).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    if not is_name(text):
        return parse_region(text, height, width)
    if output is None:
        raise BlobexError(f"region {abbreviated(text)} is a name, which takes a trained parser: give {FORMS}")
    return object_mask(text, output, index)


def is_name(text: str) -> bool:
    """Test whether a region is given as the name of an object.

    >>> is_name("car ahead"), is_name("mask.png")
    (True, False)
    """
    return re.fullmatch(r"[A-Za-z ]*[A-Za-z][A-Za-z ]*", text) is not None


def parse_region(text: str, height: int, width: int) -> Tensor:
    """Return the region of a box, a polygon or a mask image, bool (height,width).

    A pixel belongs to a box or polygon that holds its centre. A polygon that crosses itself is filled by the even-odd
    rule. A mask image shows the uncropped photo; it is cropped and resized as photos are, and its white pixels count.
    Raises BlobexError if the text has none of these forms, a share is below 0 or above 1, there are fewer than three
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


def painting_blobs(scores: Tensor, region: Tensor, background: bool = False) -> tuple[list[list[int]], list[bool]]:
    """Choose the blobs, numbered from 0, that paint a region of each of N images, and whether its background counts.

    A blob is chosen if it paints at least 10% of the region, or at least 2% of it and nowhere more than there. If none
    does, the strongest is chosen, if it paints more than 5%. The background counts if `background` allows it and it
    paints more than half.

    `scores` (N,K+1,H,W) are the layouts' score maps, background first, and `region` is bool (N or 1,H,W). Raises
    BlobexError if a region is empty or of another size, or nothing that is allowed paints it.

    >>> scores = torch.tensor([0.19, 0.8, 0.01])[None, :, None, None].expand(1, 3, 2, 2)  # background and two blobs
    >>> painting_blobs(scores, torch.ones(1, 2, 2, dtype=torch.bool))
    ([[0]], [False])
    """
    count, (height, width) = len(scores), scores.shape[2:]
    if region.dtype != torch.bool or region.shape not in ((1, height, width), (count, height, width)):
        raise BlobexError(
            f"a region of {count} images is bool ({count} or 1,{height},{width}), not {tuple(region.shape)}"
        )
    if not region.flatten(1).any(1).all():
        raise BlobexError("a region has no pixel: make it larger")
    region = region.expand(count, -1, -1).to(scores.device)
    inside = torch.einsum("nkhw,nhw->nk", scores.double(), region.double())
    of_region = inside / region.sum((1, 2))[:, None]  # N,K+1: share of the region that each paints
    of_itself = inside / scores.double().sum((2, 3)).clamp(min=torch.finfo(torch.double).tiny)
    chosen = (of_region >= SHARE) | ((of_itself >= INSIDE) & (of_region >= LEAST_INSIDE))
    strongest = of_region[:, 1:].argmax(1)
    blobs, backgrounds = list[list[int]](), (of_region[:, 0] > BACKGROUND).tolist()
    for image in range(count):
        numbers = chosen[image, 1:].nonzero()[:, 0].tolist()
        if not numbers and of_region[image, 1 + strongest[image]] > LAST_RESORT:
            numbers = [int(strongest[image])]
        if not numbers and not (backgrounds[image] and background):
            which = f" of image {image}" if count > 1 else ""
            what = "the background: allow it" if backgrounds[image] else "many blobs, each a little: name some"
            raise BlobexError(f"the region{which} is painted by {what} or choose another region")
        blobs.append(numbers)
    return blobs, [painted and background for painted in backgrounds]
