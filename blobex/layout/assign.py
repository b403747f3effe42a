"""From segments to blobs: which blob stands for which segment, and the ellipse that it is.

Every group has its own blobs. Where it has several, each has an anchor, the mean of a cluster of all such segments, and
a picture's segments go to the anchors that they are nearest to: one blob always means the same kind of thing at the
same kind of place, which is what can be learnt of layouts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.layout.segments import Segment

FILLED = 1.0  # added to the size, so that small blobs are opaque too
LONGEST = 8.0  # the most that a blob is longer than wide
AREA_WEIGHT = 0.25  # of the logarithm of areas beside places, when segments are compared


@dataclass(frozen=True)
class Places:
    """Where the blobs of N pictures are, in the units of BlobLayout. A blob that is absent has its usual place."""

    xs: Tensor  # N,K
    ys: Tensor  # N,K
    covs: Tensor  # N,K,4
    sizes: Tensor  # N,K: ABSENT where the picture has no such segment
    present: Tensor  # N,K bool


@dataclass(frozen=True)
class Anchors:
    """What K blobs stand for, in the order of their slots."""

    traits: Tensor  # K,3: place and size of the segments that are the blob's
    usual: Tensor  # K,6: the mean ellipse, as an absent blob has it


def fit_anchors(
    pictures: Sequence[Sequence[Segment]], slots: Mapping[str, int], aspect_ratio: int, area: float
) -> Anchors:
    """What the blobs of such pictures stand for; they are `aspect_ratio` times as wide as high."""
    blobs = sum(slots.values())
    traits = np.concatenate([_clusters(_of(pictures, group), count) for group, count in slots.items()])
    plain = np.tile([0.5, 0.5, 0.0, 1.0, 0.0, ABSENT], (blobs, 1))
    shape, present = _placed(pictures, slots, traits, plain, aspect_ratio, area)
    for blob in range(blobs):
        if present[:, blob].any():
            plain[blob] = _mean(shape[present[:, blob], blob])
    return Anchors(torch.from_numpy(traits).float(), torch.from_numpy(plain).float())


def place(
    pictures: Sequence[Sequence[Segment]], slots: Mapping[str, int], anchors: Anchors, aspect_ratio: int, area: float
) -> Places:
    """The blobs of pictures that are `aspect_ratio` times as wide as high; `area` is that of a blob of size 1.

    Of a group with more segments than blobs, the largest count.
    """
    traits, usual = anchors.traits.cpu().double().numpy(), anchors.usual.cpu().double().numpy()
    shape, present = _placed(pictures, slots, traits, usual, aspect_ratio, area)
    return _places(torch.from_numpy(shape).float(), torch.from_numpy(present))


def _placed(
    pictures: Sequence[Sequence[Segment]],
    slots: Mapping[str, int],
    traits: np.ndarray,
    usual: np.ndarray,
    aspect_ratio: int,
    area: float,
) -> tuple[np.ndarray, np.ndarray]:
    """(N,K,6): x, y, logarithm of length by width, direction, size; and (N,K) bool: which blobs show something."""
    shape = np.tile(usual, (len(pictures), 1, 1))
    present = np.zeros(shape.shape[:2], dtype=bool)
    first = 0
    for group, count in slots.items():
        for row, found in enumerate(_of(pictures, group)):
            largest = sorted(found, key=lambda each: -each.area)[:count]
            if largest:
                away = ((_traits(largest)[:, None] - traits[None, first : first + count]) ** 2).sum(2)
                for index, column in zip(*linear_sum_assignment(away), strict=True):
                    shape[row, first + column] = _ellipse(largest[index], aspect_ratio, area)
                    present[row, first + column] = True
        first += count
    return shape, present


def _mean(shape: np.ndarray) -> list[float]:
    """The usual ellipse of a blob's ellipses (N,6), of size ABSENT; axes have no sign, their doubled angles count."""
    x, y, ratio, ux, uy, _ = shape.T
    angle = math.atan2((2 * ux * uy).mean(), (ux**2 - uy**2).mean()) / 2
    return [x.mean(), y.mean(), ratio.mean(), math.cos(angle), math.sin(angle), ABSENT]


def _of(pictures: Sequence[Sequence[Segment]], group: str) -> list[list[Segment]]:
    return [[each for each in picture if each.group == group] for picture in pictures]


def _clusters(found: Sequence[Sequence[Segment]], count: int) -> np.ndarray:
    """Cluster means (count,3) of a group's segments, the smallest first: what is near stands in front."""
    every = [each for some in found for each in some]
    if not every:
        return np.zeros((count, 3))
    traits = _traits(every)
    if len(traits) < count:
        traits = np.resize(traits, (count, 3))
    if count == 1:
        return traits.mean(0, keepdims=True)
    spread = np.random.default_rng(0).normal(scale=1e-9, size=traits.shape)  # k-means wants distinct points
    means, _ = kmeans2(traits + spread, count, seed=0, minit="++")
    return means[np.argsort(means[:, 2], kind="stable")]


def _traits(found: Sequence[Segment]) -> np.ndarray:
    return np.array([(each.x, each.y, AREA_WEIGHT * math.log(each.area)) for each in found])


def _ellipse(found: Segment, aspect_ratio: int, area: float) -> list[float]:
    """The ellipse of the segment's moments, as a blob: a uniform ellipse has half-axes of twice the deviations."""
    (short, long), axes = np.linalg.eigh([[found.xx, found.xy], [found.xy, found.yy]])
    size = 4 * math.sqrt(long * short) / area + FILLED
    ratio = min(math.sqrt(long / short), LONGEST)
    return [found.x / aspect_ratio, found.y, math.log(ratio), *axes[:, 1], size]


def _places(shape: Tensor, present: Tensor) -> Places:
    xs, ys, ratio, ux, uy, sizes = shape.unbind(-1)
    turned = torch.where(uy < 0, -1.0, 1.0)  # an axis has no sign: one of the two is written, that points down
    # With aspect logits t and -t, half the difference of their log-sigmoids is t/2.
    covs = torch.stack([2 * ratio, -2 * ratio, turned * ux, turned * uy], dim=-1)
    return Places(xs, ys, covs, sizes, present)


def placed(xs: Tensor, ys: Tensor, covs: Tensor, sizes: Tensor) -> BlobLayout:
    """Blobs at these places that look like nothing yet."""
    nothing = xs.new_zeros(len(xs), xs.shape[1] + 1, 0)
    return BlobLayout(xs, ys, covs, F.pad(sizes, (1, 0)), nothing, nothing)


def looking(places: BlobLayout, features: Tensor, styles: Tensor) -> BlobLayout:
    """The blobs with features and styles (N,K+1,...)."""
    return places.replace({"features": features, "spatial_style": styles})


def tensors_of(places: Places) -> tuple[Tensor, ...]:
    """xs, ys, covs, sizes and present: what batches are cut from."""
    return places.xs, places.ys, places.covs, places.sizes, places.present
