"""Segment encoder of version 0.1, whose codes are decoded to features and styles by the encoder itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blobex.layout.assign import BlobAnchors
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import Canvas, score_pyramid
from blobex.networks.ops import at_least_float32, pixel_norm

FEATURE_EPSILON = 1e-5
WIDTHS = (32, 64, 128)  # channels of the body's levels, the finest first
POSITION_SCALE = 3.0  # brings blob-relative positions to the scale of the features
MIN_SCORE = 1e-5  # share of the image; the features of a blob with a smaller total score fade to zero


class MomentEncoder(nn.Module):
    """Network from images to one code per blob, and from codes to features and styles.

    A code depends only on the image region that the blob covers: it is made of convolutional features averaged by the
    blob's scores, plain and multiplied by the position relative to the blob's centre.
    """

    traits: Tensor
    usual: Tensor

    def __init__(self, canvas: Canvas, blobs: int, code_dim: int, feature_dim: int, style_dim: int) -> None:
        super().__init__()
        self.canvas, self.feature_dim = canvas, feature_dim
        self.register_buffer("traits", torch.zeros(blobs, 3))  # centres and mean_ellipses of BlobAnchors
        self.register_buffer("usual", torch.zeros(blobs, 6))
        first, second, third = WIDTHS
        self.fine = nn.Sequential(*_layer(3, first, 1), *_layer(first, second, 2), *_layer(second, second, 1))
        self.coarse = nn.Sequential(*_layer(second, third, 2), *_layer(third, third, 1))
        self.code = nn.Linear(3 * (second + third), code_dim)
        self.slot = nn.Parameter(0.5 * torch.randn(blobs + 1, code_dim))  # mean code of the blob
        self.look = nn.Linear(code_dim, feature_dim + style_dim)

    def codes(self, images: Tensor, layout: BlobLayout) -> Tensor:
        """Return codes (N,K+1,code_dim) of images (N,3,height,width) and the ellipses of `layout`."""
        height = self.canvas.height
        with torch.autocast(images.device.type, enabled=False):
            pyramid = score_pyramid(layout, self.canvas, height // 4)
        fine = self.fine(images)
        maps = {height // 2: fine, height // 4: self.coarse(fine)}
        pooled = [part for level, features in maps.items() for part in self._pooled(features, pyramid[level], layout)]
        return at_least_float32(self.code(torch.cat(pooled, dim=2))) + self.slot

    @property
    def anchors(self) -> BlobAnchors:
        return BlobAnchors(self.traits, self.usual)

    def set_anchors(self, anchors: BlobAnchors) -> None:
        self.traits.copy_(anchors.centres)
        self.usual.copy_(anchors.mean_ellipses)

    def appearance(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and styles (N,K+1,...) of codes, normalised as those of a layout network."""
        feature, style = self.look(codes).split([self.feature_dim, self.look.out_features - self.feature_dim], dim=-1)
        return pixel_norm(feature, FEATURE_EPSILON), pixel_norm(style, FEATURE_EPSILON)

    def _pooled(self, features: Tensor, scores: Tensor, layout: BlobLayout) -> list[Tensor]:
        """Means of features (N,C,h,w) by each blob's scores (N,K+1,h,w): plain, times x, and times y."""
        height, width = scores.shape[2:]
        grid_y, grid_x = (
            torch.arange(size, device=scores.device, dtype=scores.dtype) / height for size in (height, width)
        )
        middle = torch.full_like(layout.xs[:, :1], 0.5)
        xs, ys = (torch.cat([middle, centres], 1)[..., None] for centres in (layout.xs, layout.ys))
        x = POSITION_SCALE * (grid_x - self.canvas.aspect_ratio * xs)  # N,K+1,w
        y = POSITION_SCALE * (grid_y - ys)  # N,K+1,h
        weights = scores / (scores.sum((2, 3), keepdim=True) + MIN_SCORE * height * width)
        points = features.permute(0, 2, 3, 1).flatten(1, 2)
        return [
            at_least_float32(torch.bmm(weighting.flatten(2).to(points.dtype), points))
            for weighting in (weights, weights * x[:, :, None], weights * y[..., None])
        ]


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.2)]
