"""Boxes in pixel coordinates: area, centre, intersection over union, and the pixels beneath."""

from __future__ import annotations

import numpy as np

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels; pixel i reaches from i to i+1


def area(box: Box) -> float:
    """Return the area of a box in square pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def centre(box: Box) -> tuple[float, float]:
    """Return x and y of the middle of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def iou(a: Box, b: Box) -> float:
    """Compute the intersection over union of two boxes, 0 to 1; 0 if both are empty.

    >>> iou((0, 0, 2, 1), (1, 0, 3, 1))
    0.3333333333333333
    """
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = area(a) + area(b) - intersection
    return intersection / union if union > 0 else 0.0


def bounding_box(mask: np.ndarray) -> Box:
    """Return the smallest box that holds all True pixels of a mask (H,W); at least one is True.

    >>> bounding_box(np.array([[False, False, False], [False, True, True]]))
    (1.0, 1.0, 3.0, 2.0)
    """
    ys, xs = np.nonzero(mask)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """Return the part (h,w,...) of a map or image (H,W,...) beneath a box, at least one pixel.

    >>> crop(np.arange(6).reshape(2, 3), (1.2, 0.0, 2.7, 1.0)).tolist()
    [[1, 2]]
    """
    height, width = array.shape[:2]
    left, top = min(round(box[0]), width - 1), min(round(box[1]), height - 1)
    return array[top : max(round(box[3]), top + 1), left : max(round(box[2]), left + 1)]


def box_mask(box: Box, height: int, width: int) -> np.ndarray:
    """Return the mask (H,W) of the pixels whose centre is in a box.

    >>> box_mask((2.0, 0.0, 4.0, 1.0), height=1, width=4).tolist()
    [[False, False, True, True]]
    """
    left, top, right, bottom = box
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    return ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
