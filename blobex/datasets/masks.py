"""Label maps from files: category numbers, or BDD100K's panoptic bitmasks ("Label Format" in its documentation)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blobex.core.errors import BlobexError
from blobex.datasets.images import opened_image
from blobex.scenes.labels import PANOPTIC


@dataclass(frozen=True)
class Panoptic:
    """A decoded bitmask; all arrays are (H,W)."""

    category: np.ndarray  # uint8: scenes.labels.PANOPTIC
    instance: np.ndarray  # uint16: one number per segment
    crowd: np.ndarray  # bool


def load_mask(path: str | Path, categories: int) -> np.ndarray:
    """Load a label map (H,W) uint8 of numbers below `categories`, or 255 for unknown.

    Raises:
        BlobexError: if the file holds anything else.
    """
    mask = _decode(path, ("L", "P"), "one number a pixel")
    wrong = (mask >= categories) & (mask != 255)
    if wrong.any():
        raise BlobexError(
            f"{path} holds the label {mask[wrong][0]}: there should be only 0 to {categories - 1}, and 255"
        )
    return mask


def load_bitmask(path: str | Path) -> Panoptic:
    """Decode an RGBA bitmask: R is the category, bit 1 of G the crowd flag, 256 B + A the segment number.

    Bits 3, 2 and 0 of G (truncated, occluded, ignore) are not used.

    Raises:
        BlobexError: if the file holds anything else.
    """
    mask = _decode(path, ("RGBA",), "RGBA pixels")
    category = mask[:, :, 0]
    if category.max() >= len(PANOPTIC):
        raise BlobexError(f"{path} holds the category {category.max()}: there should be only 0 to {len(PANOPTIC) - 1}")
    instance = mask[:, :, 2].astype(np.uint16) * 256 + mask[:, :, 3]
    return Panoptic(category, instance, (mask[:, :, 1] & 2) > 0)


def _decode(path: str | Path, modes: tuple[str, ...], meaning: str) -> np.ndarray:
    with opened_image(Path(path), "label map") as image:
        if image.mode not in modes:
            raise BlobexError(f"{path} is a {image.mode} image: the label map should have {meaning}")
        return np.array(image)
