"""Cause recall and precision: the share of the true causes that a change touches, and its share that lies on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from blobex.datasets.images import fit_mask
from blobex.scenes.render import cause_mask, render
from blobex.scenes.rules import Cause
from blobex.scenes.scene import Scene

VISIBLE = 24.0  # grey levels by which a pixel must differ, as in `cause_mask`


def change_map(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the absolute change of each pixel in grey levels, the largest over channels; images uint8 (H,W,3)."""
    return np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=2).astype(np.float64)


def cause_masks(
    scene: Scene, causes: Iterable[Cause], height: int, width: int, essential: bool = False
) -> list[np.ndarray]:
    """Return the mask of each visible cause, bool (height,width).

    With `essential`, a red light is its lamps alone: turned green it refuses nothing, but is still there.
    """
    ordered = sorted(causes, key=lambda cause: (cause.element, cause.thing))
    whole = [
        (lamps if essential and cause.element == "light" else cause_mask)(scene, cause, height) for cause in ordered
    ]
    masks = [fit_mask(mask.astype(np.uint8), height, width) > 0 for mask in whole]
    return [mask for mask in masks if mask.any()]


def lamps(scene: Scene, cause: Cause, height: int) -> np.ndarray:
    """Return the pixels (H,2H) of a scene that differ between its light and a green one."""
    green = dataclasses.replace(scene, light="green")
    return change_map(render(scene, height).image, render(green, height).image) > VISIBLE


def cause_recall(change: np.ndarray, masks: Sequence[np.ndarray], touched: float) -> float | None:
    """Return the share of causes whose mean change is at least `touched` grey levels; None without causes."""
    return float(np.mean([change[mask].mean() >= touched for mask in masks])) if masks else None


def cause_precision(change: np.ndarray, masks: Sequence[np.ndarray], dilation: int) -> float | None:
    """Return the share of the change within `dilation` pixels of the causes; None without causes or change."""
    total = change.sum()
    if not masks or total == 0:
        return None
    union = np.any(masks, axis=0)
    dilated = ndimage.binary_dilation(union, np.ones((3, 3)), iterations=dilation) if dilation else union
    return float(change[dilated].sum() / total)
