"""Label maps from files: one number a pixel, or BDD100K's panoptic bitmasks ("Label Format" in its documentation)."""

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
    truncated: np.ndarray  # bool
    occluded: np.ndarray  # bool
    crowd: np.ndarray  # bool
    ignore: np.ndarray  # bool


def load_mask(path: str | Path, categories: int) -> np.ndarray:
    """A label map (H,W) uint8 of numbers below `categories`, or 255: unknown. Raises BlobexError for anything else."""
    mask = _decode(path, ("L", "P"), "one number a pixel")
    wrong = (mask >= categories) & (mask != 255)
    if wrong.any():
        raise BlobexError(
            f"{path} holds the label {mask[wrong][0]}: there should be only 0 to {categories - 1}, and 255"
        )
    return mask


def load_bitmask(path: str | Path) -> Panoptic:
    """Decode an RGBA bitmask: R category; G bits 3 to 0 truncated, occluded, crowd, ignore; 256 B + A segment number.

    Raises BlobexError for anything else.
    """
    mask = _decode(path, ("RGBA",), "RGBA pixels")
    category, flags = mask[:, :, 0], mask[:, :, 1]
    if category.max() >= len(PANOPTIC):
        raise BlobexError(f"{path} holds the category {category.max()}: there should be only 0 to {len(PANOPTIC) - 1}")
    return Panoptic(
        category=category,
        instance=mask[:, :, 2].astype(np.uint16) * 256 + mask[:, :, 3],
        truncated=(flags & 8) > 0,
        occluded=(flags & 4) > 0,
        crowd=(flags & 2) > 0,
        ignore=(flags & 1) > 0,
    )


def _decode(path: str | Path, modes: tuple[str, ...], meaning: str) -> np.ndarray:
    with opened_image(Path(path), "label map") as image:
        if image.mode not in modes:
            raise BlobexError(f"{path} is a {image.mode} picture: the label map should have {meaning}")
        return np.array(image)
