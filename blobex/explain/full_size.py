"""Counterfactuals at the size of the photo: the change of the network's view, laid over the original."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torch import Tensor

from blobex.core.files import whole_file
from blobex.datasets.images import crop_box, opened_image

RADIUS = 2  # pixels of the view: half of a window's side
EPSILON = 1e-3  # variance of the view, of colours from 0 to 1, below which a window counts as flat
REPLACED = 0.15  # mean change of colours from 0 to 1 from which a flat surface counts as replaced by another


def is_larger(photo: np.ndarray, view: np.ndarray) -> bool:
    """Return whether the part of a photo (H,W,3) that the view (h,w,3) shows has more pixels than the view."""
    left, top, right, bottom = crop_box(photo.shape[0], photo.shape[1], view.shape[0], view.shape[1])
    return (bottom - top, right - left) > view.shape[:2]


def lay_over(photo: np.ndarray, query: np.ndarray, counterfactual: np.ndarray) -> np.ndarray:
    """Lay the change from `query` to `counterfactual`, (h,w,3) uint8, over the photo (H,W,3) uint8 they were cut from.

    Around each pixel of the view the change is close to a linear function of the query, d = a q + b, as in a fast
    guided filter (He & Sun, arXiv:1505.00996, 2015). The photo gets the enlarged d and a times the details that the
    photo has and the view has not. Where an object is replaced, a is about -1, so that its finest details disappear;
    where a colour shifts, a is about 0, so that edges of the photo stay sharp. In flat windows, which tell nothing of
    a, it is -1 after a change of REPLACED or more, and 0 without a change. Pixels beyond the changed ones and their
    neighbours keep their values.
    """
    height, width = query.shape[:2]
    left, top, right, bottom = crop_box(photo.shape[0], photo.shape[1], height, width)
    mask, result = (query != counterfactual).any(2), photo.copy()
    if not mask.any():
        return result
    scale = (bottom - top) / height, (right - left) / width
    (y0, y1), (x0, x1) = (
        (max(0, int(places.min()) - 1), min(size, int(places.max()) + 2))
        for places, size in zip(np.nonzero(mask), mask.shape, strict=True)
    )
    rows, columns = (round(y * scale[0]) for y in (y0, y1)), (round(x * scale[1]) for x in (x0, x1))
    (first, last), (start, end) = rows, columns
    box = start / scale[1], first / scale[0], end / scale[1], last / scale[0]

    def enlarged(values: Tensor | np.ndarray, method: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
        plane = Image.fromarray(np.asarray(values, dtype=np.float32))
        return np.asarray(plane.resize((end - start, last - first), method, box=box))

    part = result[top + first : top + last, left + start : left + end]
    guide, new = (torch.from_numpy(view.astype(np.float32) / 255).permute(2, 0, 1) for view in (query, counterfactual))
    weight, slopes = enlarged(mask), _slopes(guide, new - guide, mask)
    offsets = new - guide - slopes * guide
    for channel in range(3):
        own = part[..., channel].astype(np.float32)
        change = enlarged(slopes[channel]) * own + 255 * enlarged(offsets[channel], Image.Resampling.BICUBIC)
        part[..., channel] = np.where(weight > 0, np.clip(np.round(own + weight * change), 0, 255), own)
    return result


def write_jpeg(path: Path, image: np.ndarray, description: str, source: str | Path | None = None) -> None:
    """Write (H,W,3) uint8 atomically, with a description in its EXIF data and the colour profile of the file `source`.

    Other metadata of `source`, such as its place, are left out.
    """
    exif, profile = Image.Exif(), None
    exif[ExifTags.Base.ImageDescription] = description.encode("ascii", "backslashreplace").decode("ascii")
    if source is not None:
        with opened_image(Path(source)) as original:
            profile = original.info.get("icc_profile") if original.mode == "RGB" else None
    with whole_file(path) as temporary:
        Image.fromarray(image).save(temporary, format="JPEG", quality=95, exif=exif, icc_profile=profile)


def _slopes(guide: Tensor, change: Tensor, mask: np.ndarray) -> Tensor:
    """Return the slope (C,h,w) in [-1,0] of the best linear map from guide to change (C,h,w) around each pixel."""
    inside = torch.from_numpy(mask).float()[None]
    count = _sums(inside).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return _sums(values * inside) / count

    covariance = mean(guide * change) - mean(guide) * mean(change)
    variance = (mean(guide * guide) - mean(guide).square()).clamp(min=0)
    flat = -(mean(change.abs()).mean(0, keepdim=True) / REPLACED).clamp(max=1)
    return mean((covariance + EPSILON * flat) / (variance + EPSILON)).clamp(-1, 0)


def _sums(values: Tensor) -> Tensor:
    """Return the sum over the window around each pixel."""
    return F.avg_pool2d(values, 2 * RADIUS + 1, stride=1, padding=RADIUS) * (2 * RADIUS + 1) ** 2
