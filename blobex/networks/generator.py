"""Generator: StyleGAN2 synthesis with spatial modulation (BlobGAN, ECCV 2022, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from blobex.config.training import Appearance
from blobex.layout.blobs import BlobLayout
from blobex.layout.frames import interpolate_maps, interpolation, splat_maps
from blobex.layout.splat import Canvas, score_pyramid, splat
from blobex.networks.appearance import AppearanceDecoder, DecodedAppearance
from blobex.networks.ops import GAIN, SLOPE, EqualConv, EqualLinear, at_least_float32, blur, upsample

DEMODULATION_EPSILON = 1e-8


class SpatialModulation(nn.Module):
    """Modulation of each point's channels by the styles of the blobs, weighted by their scores."""

    def __init__(self, style_dim: int, channels: int, normalise: bool) -> None:
        super().__init__()
        self.affine = EqualLinear(style_dim, channels, bias=1.0)
        self.normalise = normalise

    def forward(self, x: Tensor, scores: Tensor, style: Tensor) -> Tensor:
        """Modulate x (N,channels,h,w) by scores (N,K+1,h,w) and styles (N,K+1,style_dim), channels last."""
        affine = self.affine(style)
        points, weights = x.permute(0, 2, 3, 1).flatten(1, 2), scores.flatten(2)
        if self.normalise:
            styled = cast(Tensor, _NormalisedStyle.apply(points, weights, affine.to(weights.dtype)))
        else:
            styled = points * torch.bmm(weights.transpose(1, 2), affine)
        return styled.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class _NormalisedStyle(torch.autograd.Function):
    """Product of x (N,P,C) and the style map scores^T affine, normalised by its root mean square over channels.

    Scores are (N,K+1,P). Once differentiable, in closed form with half the passes of automatic differentiation:
    for m the normalised map and u = gradient * x, the gradient of the map is (u - m * mean(u m)) / rms.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scores: Tensor, affine: Tensor) -> Tensor:
        style = torch.bmm(scores.transpose(1, 2), affine)
        exact = torch.promote_types(style.dtype, torch.float32)
        length = torch.linalg.vector_norm(style, dim=2, keepdim=True, dtype=exact)
        scale = (length.square() / style.shape[2] + DEMODULATION_EPSILON).rsqrt().to(style.dtype)
        style *= scale
        ctx.save_for_backward(x, scores, affine, style, scale)
        return x * style

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scores, affine, style, scale = ctx.saved_tensors
        towards = gradient[0] * x
        along = (towards * style).mean(2, keepdim=True)
        towards = torch.addcmul(towards, style, along, value=-1).mul_(scale)
        return gradient[0] * style, torch.bmm(affine, towards.transpose(1, 2)), torch.bmm(scores, towards)


class ModulatedConv(nn.Module):
    """Convolution of the modulated input, with unit-norm weights if demodulated, times `gain`.

    With `up`, a transposed convolution of stride 2 followed by the binomial filter.
    """

    folded: Tensor | None

    def __init__(
        self, inputs: int, outputs: int, kernel: int, style_dim: int, demodulate: bool, up: bool, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.modulation = SpatialModulation(style_dim, inputs, normalise=demodulate)
        self.scale = 1 / math.sqrt(inputs * kernel * kernel)
        self.demodulate, self.up, self.gain = demodulate, up, gain
        self.register_buffer("folded", None, persistent=False)

    def effective_weight(self) -> Tensor:
        """Return the weight of the convolution. It does not depend on the style, so that `fold` can store it."""
        weight = self.weight * self.scale
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + DEMODULATION_EPSILON)
        return weight * self.gain

    def forward(self, x: Tensor, scores: Tensor, style: Tensor, bias: Tensor) -> Tensor:
        weight = self.effective_weight() if self.folded is None else self.folded
        bias = bias * self.gain
        x = self.modulation(x, scores, style)
        if self.up:
            return blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding=1, gain=4.0, bias=bias)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


class StyledLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias and leaky ReLU, whose gain is multiplied into the three summands."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, 3, style_dim, demodulate=True, up=up, gain=GAIN)
        self.noise_weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, scores: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        x = self.conv(x, scores, style, self.bias)
        return F.leaky_relu_(x + (self.noise_weight * GAIN * noise).to(x.dtype), SLOPE)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, added to the upsampled image of the level below."""

    def __init__(self, inputs: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, 1, style_dim, demodulate=False, up=False)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, scores: Tensor, style: Tensor, below: Tensor | None) -> Tensor:
        image = self.conv(x, scores, style, self.bias)
        return image if below is None else image + upsample(below)


class Generator(nn.Module):
    """Network from layouts to images (N,3,height,width), about in [-1,1], with `channels` by level height.

    With `appearance` settings, features and styles of a layout are codes, from which textures and edges of the blobs
    are decoded, too; without, as published, they are used as they are.
    """

    def __init__(
        self,
        canvas: Canvas,
        channels: Mapping[int, int],
        feature_dim: int,
        style_dim: int,
        appearance: Appearance | None = None,
    ) -> None:
        super().__init__()
        self.canvas, self.splat = canvas, splat
        self.heights = sorted(channels)
        first = channels[self.heights[0]]
        self.first = StyledLayer(feature_dim, first, style_dim)
        self.first_rgb = ToRGB(first, style_dim)
        self.ups, self.layers, self.rgbs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for below, height in zip(self.heights[:-1], self.heights[1:], strict=True):
            self.ups.append(StyledLayer(channels[below], channels[height], style_dim, up=True))
            self.layers.append(StyledLayer(channels[height], channels[height], style_dim))
            self.rgbs.append(ToRGB(channels[height], style_dim))
        self.decoder: AppearanceDecoder | None = None
        if appearance is not None:
            widths = {height: channels[height] for height in self.heights if height in appearance.texture_levels}
            self.decoder = AppearanceDecoder(appearance, list(widths), feature_dim, style_dim)
            self.textures = nn.ModuleDict(
                {
                    str(height): EqualConv(appearance.texture_channels, width, 1, linear=True)
                    for height, width in widths.items()
                }
            )

    def forward(self, layout: BlobLayout, noise: Sequence[Tensor]) -> Tensor:
        """Render layouts with one noise map (N or 1,1,h,w) per styled layer, in the order of `noise_shapes`."""
        return self.draw(layout, noise)[0]

    def draw(self, layout: BlobLayout, noise: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Render layouts as `forward`; return images and their score maps (N,K+1,H,W), which are computed once."""
        with torch.autocast(layout.xs.device.type, enabled=False):
            decoded = self.decode(layout)
            pyramid = self.scores(layout, decoded)
            largest = pyramid[self.heights[-1]]
            textures = self._textures(layout, decoded, pyramid)
        if torch.is_autocast_enabled(layout.xs.device.type):
            precision = torch.get_autocast_dtype(layout.xs.device.type)
            pyramid = {height: scores.to(precision) for height, scores in pyramid.items()}
        style = decoded.styles
        scores = pyramid[self.heights[0]]
        x = self.feature_grid(decoded.features, scores)
        x = self.first(x, scores, style, noise[0])
        image = self.first_rgb(x, scores, style, None)
        for level, height in enumerate(self.heights[1:]):
            x = self.ups[level](x, scores, style, noise[1 + 2 * level])
            scores = pyramid[height]
            if height in textures:
                x = x + self.textures[str(height)](textures[height])
            x = self.layers[level](x, scores, style, noise[2 + 2 * level])
            image = self.rgbs[level](x, scores, style, image)
        return at_least_float32(image), largest

    def decode(self, layout: BlobLayout) -> DecodedAppearance:
        """Decode the appearance codes of a layout; without a decoder, they are features and styles."""
        if self.decoder is not None:
            return self.decoder(layout)
        return DecodedAppearance(layout.features, layout.spatial_style, {}, None)

    def scores(self, layout: BlobLayout, decoded: DecodedAppearance) -> dict[int, Tensor]:
        """Return score maps (N,K+1,height,width) by level height."""
        edges = None
        if decoded.edges is not None:
            weights = interpolation(layout, self.canvas, self.canvas.height, decoded.edges.shape[2])
            edges = interpolate_maps(decoded.edges, weights)[:, 1:]
        return score_pyramid(layout, self.canvas, self.heights[0], self.splat, edges)

    def _textures(
        self, layout: BlobLayout, decoded: DecodedAppearance, pyramid: Mapping[int, Tensor]
    ) -> dict[int, Tensor]:
        """Return the textures (N,C,h,w) of each level."""
        return {
            height: splat_maps(maps, pyramid[height], interpolation(layout, self.canvas, height, maps.shape[2]))
            for height, maps in decoded.textures.items()
        }

    def fold(self, precision: torch.dtype) -> None:
        """Store the effective weights of all convolutions, for a network whose weights no longer change."""
        for module in self.modules():
            if isinstance(module, ModulatedConv):
                module.folded = module.effective_weight().detach().to(precision)

    @staticmethod
    def feature_grid(features: Tensor, scores: Tensor) -> Tensor:
        """Return the input grid: the sum over blobs of score times feature, (N,feature_dim,h,w)."""
        grid = torch.bmm(scores.flatten(2).transpose(1, 2), features)
        return grid.unflatten(1, scores.shape[2:]).permute(0, 3, 1, 2)

    def noise_shapes(self) -> list[tuple[int, int]]:
        """Return height and width of the noise map of each styled layer."""
        heights = [self.heights[0], *[height for height in self.heights[1:] for _ in range(2)]]
        return [(height, height * self.canvas.aspect_ratio) for height in heights]

    def random_noise(self, batch: int, random: torch.Generator) -> list[Tensor]:
        """Draw noise maps (batch,1,h,w)."""
        return [torch.randn(batch, 1, *size, generator=random, device=random.device) for size in self.noise_shapes()]
