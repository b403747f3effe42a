"""Assignment of an image's segments to blobs, and the ellipse of each blob.

Each group of segments has a fixed number of blobs. A group with several blobs has one anchor per blob, the mean of a
k-means cluster of all training segments of the group; the segments of an image are matched to the nearest anchors. A
blob therefore always stands for the same kind of object in the same region, which makes layouts learnable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.layout.segments import Segment
from blobex.layout.splat import Canvas

FILLED = 1.0  # added to the size, so that small blobs are opaque too
MAX_ASPECT = 8.0  # largest ratio of a blob's axes
AREA_WEIGHT = 0.25  # of the logarithm of the area relative to the position, in the distance between segments


@dataclass(frozen=True)
class BlobEllipses:
    """Ellipses of K blobs in N images, in the units of `BlobLayout`. An absent blob has its mean ellipse."""

    xs: Tensor  # N,K
    ys: Tensor  # N,K
    covs: Tensor  # N,K,4
    sizes: Tensor  # N,K: ABSENT if the image has no segment for the blob
    segment: Tensor  # N,K int64: number of the blob's segment in its image's list; -1: none

    @property
    def present(self) -> Tensor:
        """N,K bool: true for blobs with a segment."""
        return self.segment >= 0

    def to(self, device: torch.device) -> BlobEllipses:
        """Return the ellipses on a device."""
        return BlobEllipses(*(tensor.to(device) for tensor in (*self.tensors()[:4], self.segment)))

    def tensors(self) -> tuple[Tensor, ...]:
        """Return xs, ys, covs, sizes and present, in this order."""
        return self.xs, self.ys, self.covs, self.sizes, self.present


@dataclass(frozen=True)
class BlobAnchors:
    """Segments that K blobs stand for, group by group in the order of the slots."""

    centres: Tensor  # K,3: x, y and weighted logarithm of the area; mean of the blob's cluster
    mean_ellipses: Tensor  # K,6: x, y, logarithm of the aspect, direction (2), size


def fit_anchors(images: Sequence[Sequence[Segment]], slots: Mapping[str, int], canvas: Canvas) -> BlobAnchors:
    """Fit the anchors of K blobs to the segments of training images; `slots` is the number of blobs of each group."""
    blobs = sum(slots.values())
    centres = np.concatenate([_cluster_means(_of_group(images, group), count) for group, count in slots.items()])
    means = np.tile([0.5, 0.5, 0.0, 1.0, 0.0, ABSENT], (blobs, 1))
    ellipses, numbers = _match(images, slots, centres, means, canvas)
    present = numbers >= 0
    for blob in range(blobs):
        if present[:, blob].any():
            means[blob] = _mean_ellipse(ellipses[present[:, blob], blob])
    return BlobAnchors(torch.from_numpy(centres).float(), torch.from_numpy(means).float())


def assign_segments(
    images: Sequence[Sequence[Segment]], slots: Mapping[str, int], anchors: BlobAnchors, canvas: Canvas
) -> BlobEllipses:
    """Return the blob ellipses of the segments of N images, with the anchors that were fitted for the same slots.

    If a group has more segments than blobs, the largest segments are used.
    """
    centres, means = (part.cpu().double().numpy() for part in (anchors.centres, anchors.mean_ellipses))
    ellipses, numbers = _match(images, slots, centres, means, canvas)
    x, y, ratio, ux, uy, sizes = torch.from_numpy(ellipses).float().unbind(-1)
    sign = torch.where(uy < 0, -1.0, 1.0)  # u and -u are the same axis: take the one that points down
    # With aspect logits t and -t, half the difference of their log-sigmoids is t/2.
    covs = torch.stack([2 * ratio, -2 * ratio, sign * ux, sign * uy], dim=-1)
    return BlobEllipses(x, y, covs, sizes, torch.from_numpy(numbers))


def layout_from_ellipses(xs: Tensor, ys: Tensor, covs: Tensor, sizes: Tensor) -> BlobLayout:
    """Return the layout of the first four tensors of `BlobEllipses`, with features and styles of width 0."""
    empty = xs.new_zeros(len(xs), xs.shape[1] + 1, 0)
    return BlobLayout(xs, ys, covs, F.pad(sizes, (1, 0)), empty, empty)


def with_appearance(layout: BlobLayout, features: Tensor, styles: Tensor) -> BlobLayout:
    """Return the layout with other features (N,K+1,feature_dim) and styles (N,K+1,style_dim)."""
    return layout.replace({"features": features, "spatial_style": styles})


def _match(
    images: Sequence[Sequence[Segment]],
    slots: Mapping[str, int],
    centres: np.ndarray,
    means: np.ndarray,
    canvas: Canvas,
) -> tuple[np.ndarray, np.ndarray]:
    """Match segments to blobs: ellipses (N,K,6) in the form of `BlobAnchors.mean_ellipses`, and numbers (N,K)."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    ellipses = np.tile(means, (len(images), 1, 1))
    numbers = np.full(ellipses.shape[:2], -1)
    first = 0
    for group, count in slots.items():
        for row, segments in enumerate(images):
            own = [number for number, segment in enumerate(segments) if segment.group == group]
            own = sorted(own, key=lambda number: -segments[number].area)[:count]
            largest = [segments[number] for number in own]
            if largest:
                distances = ((_descriptors(largest)[:, None] - centres[None, first : first + count]) ** 2).sum(2)
                for index, column in zip(*linear_sum_assignment(distances), strict=True):
                    ellipses[row, first + column] = _ellipse(largest[index], canvas)
                    numbers[row, first + column] = own[index]
        first += count
    return ellipses, numbers


def _mean_ellipse(ellipses: np.ndarray) -> list[float]:
    """Mean of ellipses (N,6), with size ABSENT. Axes have no sign, so the mean is over doubled angles."""
    x, y, ratio, ux, uy, _ = ellipses.T
    angle = math.atan2((2 * ux * uy).mean(), (ux**2 - uy**2).mean()) / 2
    return [x.mean(), y.mean(), ratio.mean(), math.cos(angle), math.sin(angle), ABSENT]


def _of_group(images: Sequence[Sequence[Segment]], group: str) -> list[list[Segment]]:
    return [[segment for segment in segments if segment.group == group] for segments in images]


def _cluster_means(images: Sequence[Sequence[Segment]], count: int) -> np.ndarray:
    """Cluster means (count,3) of a group's segments by increasing area, as large (near) segments are in front."""
    from scipy.cluster.vq import kmeans2  # slow to import

    segments = [segment for of_image in images for segment in of_image]
    if not segments:
        return np.zeros((count, 3))
    points = _descriptors(segments)
    if len(points) < count:
        points = np.resize(points, (count, 3))
    if count == 1:
        return points.mean(0, keepdims=True)
    spread = np.random.default_rng(0).normal(scale=1e-9, size=points.shape)  # k-means needs distinct points
    means, _ = kmeans2(points + spread, count, seed=0, minit="++")
    return means[np.argsort(means[:, 2], kind="stable")]


def _descriptors(segments: Sequence[Segment]) -> np.ndarray:
    return np.array([(segment.x, segment.y, AREA_WEIGHT * math.log(segment.area)) for segment in segments])


def _ellipse(segment: Segment, canvas: Canvas) -> list[float]:
    """Ellipse with the segment's moments; the half-axes of a uniform ellipse are twice its standard deviations."""
    (short, long), axes = np.linalg.eigh([[segment.xx, segment.xy], [segment.xy, segment.yy]])
    size = 4 * math.sqrt(long * short) / canvas.area + FILLED
    ratio = min(math.sqrt(long / short), MAX_ASPECT)
    return [segment.x / canvas.aspect_ratio, segment.y, math.log(ratio), *axes[:, 1], size]
