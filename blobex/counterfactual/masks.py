"""Masks of the layout entries that a counterfactual may change: by key, blob, and background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blobex.config.keys import resolve_keys
from blobex.core.errors import BlobexError
from blobex.layout.blobs import BACKGROUND_KEYS


def build_masks(
    count: int,
    keys: Sequence[str],
    blobs: Sequence[int] | Sequence[Sequence[int]] | None,
    background: bool | Sequence[bool],
) -> dict[str, Tensor]:
    """Return one bool mask per changeable key of a layout of `count` blobs.

    Masks broadcast to the layout's tensors: (1 or N,K), or (1 or N,K+1) where entry 0 is the background, with a last
    dimension of 1 where a blob has several numbers. Entry 0 of `sizes` is never read and never changes.

    Args:
        blobs: Blobs that may change, numbered from 0: one list for all images or one list per image; None: all.
        background: Whether the background may change: for all images or one value per list.

    Raises:
        BlobexError: A key or blob is unknown, or nothing may change.

    >>> build_masks(3, ["xs", "sizes"], blobs=[1], background=True)
    {'xs': tensor([[False,  True, False]]), 'sizes': tensor([[False, False,  True, False]])}
    """
    rows = _rows(count, blobs)
    allowed = torch.zeros(len(rows), count + 1, dtype=torch.bool)  # column 0: the background; column k+1: blob k
    allowed[:, 0] = torch.as_tensor(background)
    for row, numbers in enumerate(rows):
        allowed[row, [number + 1 for number in numbers]] = True
    masks = {key: _mask(key, allowed) for key in resolve_keys(keys)}
    changeable = sum((mask.flatten(1).sum(1) for mask in masks.values()), torch.zeros(len(rows)))
    if not changeable.all():
        raise BlobexError("nothing may change: allow a blob, or the background with its features or spatial_style")
    return masks


def check_mask_rows(masks: Mapping[str, Tensor], images: int) -> None:
    """Raise BlobexError unless the masks have one row for all images, or one per image."""
    rows = max(map(len, masks.values()))
    if rows not in (1, images):
        raise BlobexError(f"blobs are listed for {rows} of {images} images: give one list, or one per image")


def _mask(key: str, allowed: Tensor) -> Tensor:
    mask = allowed if key in BACKGROUND_KEYS else allowed[:, 1:]
    if key == "sizes":
        mask = mask.clone()
        mask[:, 0] = False
    return mask if key in ("xs", "ys", "sizes") else mask[:, :, None]


def _rows(count: int, blobs: Any) -> list[list[int]]:
    if blobs is None:
        return [list(range(count))]
    nested = {isinstance(item, Sequence) for item in blobs}
    if len(nested) > 1:
        raise BlobexError("blobs mixes numbers and lists: give one list for all images, or one list per image")
    rows = [list(row) for row in (blobs if True in nested else [blobs])]
    unknown = [number for row in rows for number in row if not isinstance(number, int) or not 0 <= number < count]
    if unknown:
        raise BlobexError(f"unknown blob {unknown[0]}: the blobs are numbered 0 to {count - 1}")
    return rows
