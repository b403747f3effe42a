"""Frames of blobs: upright boxes around their ellipses, in which textures and edges are defined.

A map in a blob's frame is a grid of G x G points that spans the frame, interpolated bilinearly and continued by its
border. Frames are upright, so interpolation separates into rows and columns, and a map keeps its orientation where the
direction of a nearly round ellipse is arbitrary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import Canvas, half_axes

LEAST_SIZE = 1.0  # sizes below it have the frame of this size, so that a disappearing blob keeps a frame


@dataclass(frozen=True)
class Interpolation:
    """Weights that interpolate maps in the frames of the background and K blobs at the points of an image."""

    rows: Tensor  # N,K+1,G,height
    columns: Tensor  # N,K+1,G,width


def half_extents(layout: BlobLayout, area: float) -> tuple[Tensor, Tensor]:
    """Return half the width and height (N,K) of each frame, in image heights.

    The frame is the bounding box of the ellipse on which the opacity is 1/2.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 4.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> [round(float(extent), 3) for extent in half_extents(layout, area=0.01)]  # 2 half-axes of 0.1
    [0.2, 0.2]
    """
    long, short = half_axes(layout.covs, area)
    along, across = F.normalize(layout.covs[..., 2:], dim=-1).square().unbind(-1)
    size = layout.sizes[:, 1:].clamp(min=LEAST_SIZE)
    return (size * (long * along + short * across)).sqrt(), (size * (long * across + short * along)).sqrt()


def interpolation(layout: BlobLayout, canvas: Canvas, height: int, grid: int) -> Interpolation:
    """Return the interpolation of `grid` x `grid` points at level `height`. The background's frame is the image.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> weights = interpolation(layout, Canvas(8, 2), height=8, grid=3)
    >>> weights.rows.shape, weights.columns.shape, bool((weights.rows.sum(2) - 1).abs().max() < 1e-6)
    (torch.Size([1, 2, 3, 8]), torch.Size([1, 2, 3, 16]), True)
    """
    extents = half_extents(layout, canvas.area)
    aspect = canvas.aspect_ratio
    rows = _tents(_with_image(layout.ys, 0.5), _with_image(extents[1], 0.5), height, height, grid)
    xs, widths = _with_image(layout.xs * aspect, aspect / 2), _with_image(extents[0], aspect / 2)
    return Interpolation(rows, _tents(xs, widths, height * aspect, height, grid))


def splat_maps(maps: Tensor, scores: Tensor, weights: Interpolation) -> Tensor:
    """Sum maps (N,K+1,G,G,C) over blobs, interpolated and weighted by scores (N,K+1,h,w); return (N,C,h,w).

    A map's first axis of points runs down, the second to the right.
    """
    batch, blobs, grid, height = weights.rows.shape
    channels = maps.shape[4]
    lines = weights.rows.transpose(2, 3) @ maps.flatten(3)  # N,K+1,h,G*C
    lines = lines.unflatten(3, (grid, channels)).permute(0, 2, 1, 3, 4).reshape(batch * height, blobs * grid, channels)
    summed = torch.bmm(_weighted_columns(scores, weights).flatten(0, 1), lines)
    return summed.unflatten(0, (batch, height)).permute(0, 3, 1, 2)


def pool_maps(features: Tensor, scores: Tensor, weights: Interpolation, least: float) -> Tensor:
    """Average features (N,C,h,w) around the points of each blob's map, weighted by its scores; (N,K+1,G,G,C+1).

    The last channel is the sum of the weights in the cells of a map of ones, at most 1. Where it falls below `least`,
    the means fade to zero.
    """
    batch, channels, height, _ = features.shape
    blobs, grid = weights.rows.shape[1:3]
    columns = _weighted_columns(scores, weights)  # N,h,w,(K+1)*G
    lines = torch.bmm(columns.flatten(0, 1).transpose(1, 2), features.permute(0, 2, 3, 1).flatten(0, 1))
    lines = lines.view(batch, height, blobs, grid * channels).transpose(1, 2)  # N,K+1,h,G*C
    sums = (weights.rows @ lines).view(batch, blobs, grid, grid, channels)
    mass = weights.rows @ columns.sum(2).view(batch, height, blobs, grid).transpose(1, 2)  # N,K+1,G,G
    return torch.cat([sums / (mass + least)[..., None], (mass / (mass + least))[..., None]], dim=-1)


def interpolate_maps(maps: Tensor, weights: Interpolation) -> Tensor:
    """Interpolate maps (N,K+1,G,G) of one channel at every point, (N,K+1,height,width)."""
    return weights.rows.transpose(2, 3) @ maps @ weights.columns


def _weighted_columns(scores: Tensor, weights: Interpolation) -> Tensor:
    """Return scores (N,K+1,h,w) times the weights of the columns, (N,h,w,(K+1)*G)."""
    return (scores.permute(0, 2, 3, 1)[..., None] * weights.columns.permute(0, 3, 1, 2)[:, None]).flatten(3)


def _with_image(of_blobs: Tensor, of_image: float) -> Tensor:
    return F.pad(of_blobs, (1, 0), value=of_image)


def _tents(centre: Tensor, extent: Tensor, length: int, height: int, grid: int) -> Tensor:
    """Weights (N,K+1,grid,length) of linear interpolation between `grid` points from -extent to extent."""
    positions = torch.arange(length, device=centre.device, dtype=centre.dtype) / height
    relative = (positions - centre[..., None]) / extent[..., None]
    cell = ((relative + 1) / 2 * (grid - 1)).clamp(0, grid - 1)
    points = torch.arange(grid, device=centre.device, dtype=centre.dtype)[:, None]
    return (1 - (cell[:, :, None] - points).abs()).clamp(min=0)
