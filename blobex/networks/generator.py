"""From blobs to a picture: StyleGAN2 synthesis with spatial modulation (BlobGAN, ECCV 2022, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.layout.layout import BlobLayout
from blobex.layout.splat import Canvas, score_pyramid
from blobex.networks.ops import GAIN, SLOPE, EqualLinear, at_least_float32, blur, upsample

DEMODULATION_EPSILON = 1e-8


class SpatialModulation(nn.Module):
    """One style map per layer: each point takes the styles of the blobs that cover it."""

    def __init__(self, style_dim: int, channels: int, normalise: bool) -> None:
        super().__init__()
        self.affine = EqualLinear(style_dim, channels, bias=1.0)
        self.normalise = normalise

    def forward(self, scores: Tensor, style: Tensor) -> Tensor:
        """Scores (N,h,w,K+1) and styles (N,K+1,style_dim) to a style map (N,channels,h,w), channels last in memory.

        The power of a point's style is a quadratic form in its scores, so it is divided out of the scores: there are
        fewer blobs than channels.
        """
        batch, height, width, blobs = scores.shape
        scores = scores.view(batch, height * width, blobs)
        affine = self.affine(style)
        if self.normalise:
            gram = torch.bmm(affine, affine.transpose(1, 2)) / affine.shape[2]
            power = (torch.bmm(scores, gram) * scores).sum(-1, keepdim=True)
            scores = scores * torch.rsqrt(power + DEMODULATION_EPSILON)
        return torch.bmm(scores, affine).view(batch, height, width, -1).permute(0, 3, 1, 2)


class ModulatedConv(nn.Module):
    """A convolution whose input is scaled by the style map, with unit-norm weights if demodulated.

    With `up`, a transposed convolution of stride 2 followed by the binomial filter. The result is times `gain`.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, style_dim: int, demodulate: bool, up: bool, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.modulation = SpatialModulation(style_dim, inputs, normalise=demodulate)
        self.scale = 1 / math.sqrt(inputs * kernel * kernel)
        self.demodulate, self.up, self.gain = demodulate, up, gain

    def forward(self, x: Tensor, scores: Tensor, style: Tensor, bias: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + DEMODULATION_EPSILON)
        weight, bias = weight * self.gain, bias * self.gain
        x = x * self.modulation(scores, style)
        if self.up:
            return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4.0, bias=bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU; the ReLU's gain is already in the three summands."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, demodulate=True, up=up, gain=GAIN)
        self.noise_weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, scores: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        x = self.conv(x, scores, style, self.bias)
        return F.leaky_relu(x + (self.noise_weight * GAIN * noise).to(x.dtype), SLOPE)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, added to the upsampled picture of the level below."""

    def __init__(self, inputs: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_dim, demodulate=False, up=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, scores: Tensor, style: Tensor, below: Tensor | None) -> Tensor:
        image = self.conv(x, scores, style, self.bias)
        return image if below is None else image + upsample(below)


class Generator(nn.Module):
    """Blobs to pictures (N,3,height,width), about [-1,1].

    `channels` maps the height of each level, from the input grid to the picture, to its width.
    """

    def __init__(self, canvas: Canvas, channels: Mapping[int, int], feature_dim: int, style_dim: int) -> None:
        super().__init__()
        self.canvas = canvas
        self.heights = sorted(channels)
        first = channels[self.heights[0]]
        self.first = StyledLayer(feature_dim, first, style_dim)
        self.first_rgb = ToRGB(first, style_dim)
        self.ups, self.layers, self.rgbs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for below, height in zip(self.heights[:-1], self.heights[1:], strict=True):
            self.ups.append(StyledLayer(channels[below], channels[height], style_dim, up=True))
            self.layers.append(StyledLayer(channels[height], channels[height], style_dim))
            self.rgbs.append(ToRGB(channels[height], style_dim))

    def forward(self, layout: BlobLayout, noise: Sequence[Tensor]) -> Tensor:
        """`noise`: one map (N or 1,1,h,w) per styled layer, in the order of `noise_shapes`."""
        with torch.autocast(layout.xs.device.type, enabled=False):
            pyramid = score_pyramid(layout, self.canvas, self.heights[0])
        if torch.is_autocast_enabled(layout.xs.device.type):
            precision = torch.get_autocast_dtype(layout.xs.device.type)
            pyramid = {height: scores.to(precision) for height, scores in pyramid.items()}
        style = layout.spatial_style
        scores = pyramid[self.heights[0]]
        x = self.feature_grid(layout, scores)
        x = self.first(x, scores, style, noise[0])
        image = self.first_rgb(x, scores, style, None)
        for level, height in enumerate(self.heights[1:]):
            x = self.ups[level](x, scores, style, noise[1 + 2 * level])
            scores = pyramid[height]
            x = self.layers[level](x, scores, style, noise[2 + 2 * level])
            image = self.rgbs[level](x, scores, style, image)
        return at_least_float32(image)

    @staticmethod
    def feature_grid(layout: BlobLayout, scores: Tensor) -> Tensor:
        """What the blobs write into the input grid: sum over blobs of score times feature, (N,feature_dim,h,w)."""
        batch, height, width, blobs = scores.shape
        grid = torch.bmm(scores.view(batch, height * width, blobs), layout.features)
        return grid.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def noise_shapes(self) -> list[tuple[int, int]]:
        """Height and width of the noise map of each styled layer."""
        heights = [self.heights[0], *[height for height in self.heights[1:] for _ in range(2)]]
        return [(height, height * self.canvas.aspect_ratio) for height in heights]

    def random_noise(self, batch: int, random: torch.Generator) -> list[Tensor]:
        """Fresh noise maps (batch,1,h,w)."""
        return [
            torch.randn(batch, 1, height, width, generator=random, device=random.device)
            for height, width in self.noise_shapes()
        ]
