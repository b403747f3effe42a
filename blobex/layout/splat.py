"""Blobs to score maps: how much each blob counts at each point (BlobGAN, ECCV 2022, section 3.1, equations 1-4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.layout import BlobLayout

AREA = 0.02  # the geometric mean of a blob's two squared half-axes, in squared picture heights
RIDGE = 1e-5  # keeps the covariance invertible


@dataclass(frozen=True)
class Canvas:
    """The picture that scores are made for.

    A native rectangle is rendered on its own grid, lengths counted in picture heights, so that blobs keep their shape
    wherever the picture is wide. A legacy one is rendered on the height x height square and then stretched by nearest
    neighbour, as the published checkpoints need it.
    """

    height: int
    aspect_ratio: int
    legacy: bool = False

    @property
    def width(self) -> int:
        return self.height * self.aspect_ratio


def splat(layout: BlobLayout, height: int, width: int) -> Tensor:
    """Score maps (N,K+1,height,width), background first; at every point they sum to one.

    Each opacity is sigmoid(size - squared Mahalanobis distance); blobs are alpha-composited, the highest in front.
    Grid point i of `height` lies at i/height; x is counted in heights too and a centre of x = 1 is the right edge.
    """
    logits = opacity_logits(layout, height, width)
    hidden = F.softplus(logits)  # -log(1 - opacity): logarithms keep thin products exact
    behind = hidden.flip(1).cumsum(1).flip(1)  # for each blob, itself and all that stand in front of it
    blobs = torch.exp(logits - behind)  # opacity * product over those in front of (1 - opacity)
    background = torch.exp(-behind[:, :1])
    return torch.cat([background, blobs], dim=1)


def opacity_logits(layout: BlobLayout, height: int, width: int) -> Tensor:
    """Size logit minus squared Mahalanobis distance, (N,K,height,width)."""
    aspect = width / height
    y = torch.arange(height, device=layout.xs.device, dtype=layout.xs.dtype) / height
    x = torch.arange(width, device=layout.xs.device, dtype=layout.xs.dtype) / height
    dx = x - aspect * layout.xs[..., None]  # N,K,width
    dy = y - layout.ys[..., None]  # N,K,height
    direction = F.normalize(layout.covs[..., 2:], dim=-1)
    ux, uy = direction.unbind(-1)  # N,K
    along, across = half_axes(layout.covs)
    # Both axes are eigenvectors, so the inverse covariance is exact without a solver; expanded to a quadratic form
    # xx dx^2 + 2 xy dx dy + yy dy^2, of which only one term is as large as the picture.
    xx = ux * ux / along + uy * uy / across
    yy = uy * uy / along + ux * ux / across
    xy = ux * uy * (1 / along - 1 / across)
    columns = layout.sizes[:, 1:, None] - xx[..., None] * dx * dx  # N,K,width
    rows = yy[..., None] * dy * dy  # N,K,height
    cross = (2 * xy[..., None] * dy)[..., None] * dx[..., None, :]
    return columns[..., None, :] - rows[..., None] - cross


def half_axes(covs: Tensor) -> tuple[Tensor, Tensor]:
    """The covariance's two eigenvalues (N,K), along the blob's direction and across it."""
    ratio = 0.5 * (F.logsigmoid(covs[..., 0]) - F.logsigmoid(covs[..., 1]))
    return AREA * torch.exp(ratio) + RIDGE, AREA * torch.exp(-ratio) + RIDGE


def score_pyramid(layout: BlobLayout, canvas: Canvas, smallest: int) -> dict[int, Tensor]:
    """Score maps (N,height,width,K+1) by level height, from `smallest` up to the canvas.

    They are made at full resolution and averaged down by successive halving. Blobs stand last, because the products
    with styles that follow want it so.
    """
    scores = splat(layout, canvas.height, canvas.height if canvas.legacy else canvas.width)
    levels: dict[int, Tensor] = {}
    height = canvas.height
    while True:
        stretched = scores.repeat_interleave(canvas.aspect_ratio, dim=3) if canvas.legacy else scores
        levels[height] = stretched.permute(0, 2, 3, 1).contiguous()
        if height <= smallest:
            return levels
        scores, height = F.avg_pool2d(scores, 2), height // 2
