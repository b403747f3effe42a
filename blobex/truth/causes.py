"""How much of the true causes a change touches, and how much of the change is about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from blobex.datasets.images import fit_mask
from blobex.scenes.render import cause_mask, render
from blobex.scenes.rules import Cause
from blobex.scenes.scene import Scene

VISIBLE = 24.0  # grey levels by which a pixel must differ to show something, as in `cause_mask`


def change_map(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(H,W): by how many grey levels each pixel changes, in the channel that changes most; pictures uint8 (H,W,3)."""
    return np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=2).astype(np.float64)


def cause_masks(
    scene: Scene, causes: Iterable[Cause], height: int, width: int, essence: bool = False
) -> list[np.ndarray]:
    """Where each cause shows in a setup's picture, bool (height,width); causes that do not show are left out.

    With `essence` only what of a cause refuses: the lamps of a red light, as one that turns green has not gone.
    """
    ordered = sorted(causes, key=lambda cause: (cause.element, cause.thing))
    whole = [(lamps if essence and cause.element == "light" else cause_mask)(scene, cause, height) for cause in ordered]
    masks = [fit_mask(mask.astype(np.uint8), height, width) > 0 for mask in whole]
    return [mask for mask in masks if mask.any()]


def lamps(scene: Scene, cause: Cause, height: int) -> np.ndarray:
    """Where the picture (H,2H) of a scene shows that its light is red: what is otherwise where it is green."""
    green = dataclasses.replace(scene, light="green")
    return change_map(render(scene, height).image, render(green, height).image) > VISIBLE


def cause_recall(change: np.ndarray, masks: Sequence[np.ndarray], touched: float) -> float | None:
    """The share of causes whose pixels change by `touched` grey levels or more on average; None without a cause."""
    return float(np.mean([change[mask].mean() >= touched for mask in masks])) if masks else None


def cause_precision(change: np.ndarray, masks: Sequence[np.ndarray], dilation: int) -> float | None:
    """The share of the whole change that lies on the causes, grown by `dilation` pixels; None without one of both."""
    total = change.sum()
    if not masks or total == 0:
        return None
    union = np.any(masks, axis=0)
    grown = ndimage.binary_dilation(union, np.ones((3, 3)), iterations=dilation) if dilation else union
    return float(change[grown].sum() / total)
