"""Changes of blobs, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from blobex.layout.blobs import BACKGROUND_KEYS, KEYS, BlobLayout

VISIBLE = 0.002  # least share of the image of a visible blob
MOVED = 0.02  # least shift, in image widths or heights
GREW = 1.25  # least ratio of areas
MOST = 0.5  # least share of the image whose blobs change their appearance, for a repaint of the scene
APPEARANCE_KEYS = ("features", "spatial_style")


@dataclass(frozen=True)
class BlobChange:
    """Change of one blob. Centres are in [0, 1] of width and height, areas are shares of the image."""

    blob: int | None  # number from 0; None: the background
    keys: tuple[str, ...]  # changed keys of the layout
    x_before: float | None
    y_before: float | None
    x_after: float | None
    y_after: float | None
    area_before: float  # share of the image that the blob paints
    area_after: float

    @property
    def name(self) -> str:
        """Name of the blob, such as "blob 3" or "background"."""
        return "background" if self.blob is None else f"blob {self.blob}"

    @property
    def words(self) -> str:
        """The change in words, such as "blob 3 moved left by 0.08, changed its shape"."""
        shape = "changed its shape" if "covs" in self.keys else ""
        appearance = "changed its appearance" if _repainted(self) else ""
        parts = [part for part in (self._shift(), self._growth(), shape, appearance) if part]
        return f"{self.name} {', '.join(parts) if parts else 'hardly changed'}"

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON."""
        return asdict(self) | {"keys": list(self.keys), "words": self.words}

    def _shift(self) -> str:
        if self.x_before is None or self.y_before is None or self.x_after is None or self.y_after is None:
            return ""
        steps = [(self.x_after - self.x_before, "right", "left"), (self.y_after - self.y_before, "down", "up")]
        moved = [f"{up if by > 0 else down} by {abs(by):.2f}" for by, up, down in steps if abs(by) >= MOVED]
        return f"moved {' and '.join(moved)}" if moved else ""

    def _growth(self) -> str:
        before, after = self.area_before, self.area_after
        if before < VISIBLE <= after:
            return f"appeared with {after:.1%} of the picture"
        if after < VISIBLE <= before:
            return f"vanished from {before:.1%} of the picture"
        if after > GREW * before and after >= VISIBLE:
            return f"grew from {before:.1%} to {after:.1%} of the picture"
        if before > GREW * after and before >= VISIBLE:
            return f"shrank from {before:.1%} to {after:.1%} of the picture"
        return ""


def blob_changes(before: BlobLayout, after: BlobLayout, areas_before: Tensor, areas_after: Tensor) -> list[BlobChange]:
    """Return one record for the background and each blob that differ between two layouts of one image.

    Args:
        areas_before: Shares of the image (K+1) that background and blobs paint.
        areas_after: The same of the second layout.
    """
    changes = []
    for entry in range(before.blobs + 1):
        keys = tuple(key for key in KEYS if _differs(key, entry, before, after))
        if keys:
            centres, blob = (*_centre(before, entry), *_centre(after, entry)), entry - 1 if entry else None
            changes.append(BlobChange(blob, keys, *centres, float(areas_before[entry]), float(areas_after[entry])))
    return changes


def repaints_scene(changes: Sequence[BlobChange]) -> bool:
    """Return whether blobs that stay but change their appearance paint most of the image."""
    repainted = [min(change.area_before, change.area_after) for change in changes if _repainted(change)]
    return sum(repainted) >= MOST


def _repainted(change: BlobChange) -> bool:
    return bool(set(APPEARANCE_KEYS) & set(change.keys))


def _centre(layout: BlobLayout, entry: int) -> tuple[float | None, float | None]:
    return (float(layout.xs[0, entry - 1]), float(layout.ys[0, entry - 1])) if entry else (None, None)


def _differs(key: str, entry: int, before: BlobLayout, after: BlobLayout) -> bool:
    index = entry if key in BACKGROUND_KEYS else entry - 1
    if index < 0 or (key == "sizes" and entry == 0):
        return False
    return bool((getattr(before, key)[0, index] != getattr(after, key)[0, index]).any())
