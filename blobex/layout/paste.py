"""Objects of one image pasted into another: pairs of images that differ in exactly one object.

From such pairs a generator learns what an object hides and how it looks in another image, without a renderer
("copy-paste", Dwibedi et al., ICCV 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blobex.layout.segments import THINGS, segment_masks

SIGNALS = ("pole", "sign", "light")  # groups that form one object: a light stands on a pole
SHIFT = (1 / 32, 1 / 4)  # largest shift down and to the right, in image heights
LEAST_VISIBLE = 0.6  # share of an object's pixels that nearer objects must not hide
MARGIN = 1  # pixels around an object that are pasted, too, as label maps are not exact
THING_LIMIT = 255


@dataclass(frozen=True)
class LabelMaps:
    """Label maps of an image, (H,W) each; see `segments.extract_segments`."""

    semantic: np.ndarray
    things: np.ndarray
    drivable: np.ndarray

    def masks(self) -> list[tuple[str, np.ndarray]]:
        return segment_masks(self.semantic, self.things, self.drivable)


@dataclass(frozen=True)
class Paste:
    """An object to paste into an image, and the segments of the result."""

    mask: np.ndarray  # H,W bool: pixels that the object replaces
    shift: tuple[int, int]  # pixels down and to the right from its place in its own image
    masks: list[tuple[str, np.ndarray]]  # segments of the result, as `segment_masks`
    pasted: frozenset[int]  # numbers of those segments that the object consists of


def objects_of(masks: Sequence[tuple[str, np.ndarray]]) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Return groups and mask of each object that can be pasted: things, and a signal with its pole."""
    objects: list[tuple[tuple[str, ...], np.ndarray]] = [((group,), mask) for group, mask in masks if group in THINGS]
    signals = [(group, mask) for group, mask in masks if group in SIGNALS]
    if any(group != "pole" for group, _ in signals):
        objects.append((tuple(group for group, _ in signals), np.any([mask for _, mask in signals], axis=0)))
    return objects


def paste(target: LabelMaps, source: LabelMaps, random: np.random.Generator) -> Paste | None:
    """Choose an object of `source` and a shift to paste it into `target`; None if there is no place for it.

    A thing is hidden by nearer things of the target, those that reach farther down. A signal needs a target without.
    """
    present = {group for group, _ in target.masks()}
    objects = [
        (groups, mask)
        for groups, mask in objects_of(source.masks())
        if groups[0] in THINGS or not present & set(SIGNALS)
    ]
    if not objects:
        return None
    sizes = np.sqrt([mask.sum() for _, mask in objects])  # large objects are those that decisions depend on
    groups, whole = objects[int(random.choice(len(objects), p=sizes / sizes.sum()))]
    height = whole.shape[0]
    limits = [round(height * share) for share in SHIFT] if groups[0] in THINGS else [0, 0]
    down, right = (int(random.integers(-limit, limit + 1)) for limit in limits)
    moved = shifted(whole, down, right)
    visible = moved & ~_nearer(target.things, moved)
    if visible.sum() < LEAST_VISIBLE * whole.sum():
        return None
    return _composite(target, source, visible, (down, right), groups)


def shifted(map_: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return a map (H,W) moved by whole pixels, with zeros where nothing moves to.

    >>> shifted(np.eye(3, dtype=int), 0, 1).tolist()
    [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    """
    moved = np.zeros_like(map_)
    height, width = map_.shape
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = map_[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return moved


def _nearer(things: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return the pixels (H,W) of things that reach farther down than the object `moved`."""
    last = int(np.flatnonzero(moved.any(axis=1)).max(initial=-1))
    numbers = [number for number in np.unique(things[moved]) if number and (things == number)[last + 1 :].any()]
    return np.isin(things, numbers)


def _composite(
    target: LabelMaps, source: LabelMaps, visible: np.ndarray, shift: tuple[int, int], groups: tuple[str, ...]
) -> Paste | None:
    from scipy import ndimage  # slow to import

    number = int(target.things.max()) + 1
    if number > THING_LIMIT:
        return None
    semantic = np.where(visible, shifted(source.semantic, *shift), target.semantic)
    things = np.where(visible, number if groups[0] in THINGS else 0, target.things)
    masks = segment_masks(semantic, things, target.drivable)
    if groups[0] in THINGS:
        own = [len(masks) - 1] if masks and (masks[-1][1] & visible).sum() == masks[-1][1].sum() else []
    else:
        own = [place for place, (group, _) in enumerate(masks) if group in groups]
    if not own:
        return None  # too small to be a segment
    margin = ndimage.binary_dilation(visible, iterations=MARGIN) & ~_other_things(target.things, visible)
    return Paste(margin, shift, masks, frozenset(own))


def _other_things(things: np.ndarray, visible: np.ndarray) -> np.ndarray:
    return (things > 0) & ~visible
