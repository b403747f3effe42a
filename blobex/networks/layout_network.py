"""Layout networks, from noise to layouts: an MLP, and a flow that is fitted to the layouts of real images."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.config.training import Network
from blobex.core.errors import BlobexError
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.networks.ops import EqualLinear, leaky, pixel_norm

LEARNING_RATE_MULTIPLIER = 0.01
FEATURE_EPSILON = 1e-5

# Of the flow:
STEPS = 16  # of Heun's method, from noise to w
GEOMETRY = 6  # numbers of a blob: x, y, log aspect, cosine and sine of the doubled angle, root of the size
# Weights of differences between layouts: a twelfth of the image height counts as much as a whole direction.
PRESENCE, PLACE, ASPECT, APPEARANCE = 2.0, 12.0, 1.5, 0.15
SHARPNESS = 30.0  # slope of the presence of a blob
FREQUENCIES = 32  # of the time embedding


class LayoutNetwork(nn.Module):
    """MLP from pixel-normalised z (N,z_dim) to layouts (BlobGAN, ECCV 2022, section 3.1).

    As in the published code, no gradient reaches `covs`.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        per_blob = 2 + 4 + network.feature_dim + network.style_dim
        outputs = network.blobs + 1 + network.feature_dim + network.style_dim + network.blobs * per_blob
        widths = [network.z_dim, *[network.layout_hidden] * (network.layout_layers - 1), outputs]
        self.widths = widths[:-1]
        self.layers = nn.ModuleList(
            EqualLinear(inputs, outputs, multiplier=LEARNING_RATE_MULTIPLIER)
            for inputs, outputs in itertools.pairwise(widths)
        )

    def forward(self, z: Tensor) -> BlobLayout:
        return self.from_w(self.to_w(z))

    def to_w(self, z: Tensor, mlp_idx: int = -1) -> Tensor:
        """Return the activation (N,hidden) before layer `mlp_idx`, counted from the end: -1 is the last layer."""
        with torch.autocast(z.device.type, enabled=False):  # bfloat16 is too coarse for positions
            x = pixel_norm(z.float())
            for layer in self.layers[: self._first(mlp_idx)]:
                x = leaky(layer(x))
            return x

    def from_w(self, w: Tensor, mlp_idx: int = -1) -> BlobLayout:
        """Return layouts for the activation before layer `mlp_idx`."""
        remaining = self.layers[self._first(mlp_idx) :]
        with torch.autocast(w.device.type, enabled=False):
            w = w.float()
            for layer in remaining[:-1]:
                w = leaky(layer(w))
            return self._to_layout(remaining[-1](w))

    def w_size(self, mlp_idx: int = -1) -> int:
        """Return the length of the activation before layer `mlp_idx`."""
        return self.widths[self._first(mlp_idx)]

    def _first(self, mlp_idx: int) -> int:
        if not -len(self.layers) <= mlp_idx <= -1:
            raise BlobexError(f"mlp_idx {mlp_idx} is not from -{len(self.layers)} to -1: choose a layer that exists")
        return len(self.layers) + mlp_idx

    def _to_layout(self, output: Tensor) -> BlobLayout:
        feature, style, blobs = self.network.feature_dim, self.network.style_dim, self.network.blobs
        lengths = [blobs + 1, feature, style, blobs * (2 + 4 + feature + style)]
        sizes, background, background_style, rest = output.split(lengths, dim=1)
        xy, covs, features, styles = rest.view(len(output), blobs, -1).split([2, 4, feature, style], dim=-1)
        features = torch.cat([background[:, None], features], dim=1)
        styles = torch.cat([background_style[:, None], styles], dim=1)
        if self.network.norm_features:
            features, styles = pixel_norm(features, FEATURE_EPSILON), pixel_norm(styles, FEATURE_EPSILON)
        xs, ys = xy.sigmoid().unbind(-1)
        return BlobLayout(xs=xs, ys=ys, covs=covs.detach(), sizes=sizes, features=features, spatial_style=styles)


class LayoutFlow(nn.Module):
    """Flow from pixel-normalised z (N,z_dim) to w (N,z_dim), the principal components of layouts.

    z is moved along a velocity field learned by flow matching (Lipman et al., ICLR 2023, equation 9, with straight
    paths) in `blobex.training.layout_flow`. No gradient reaches z.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(self, network: Network, aspect_ratio: int) -> None:
        super().__init__()
        self.network = network
        appearance = network.feature_dim + network.style_dim
        self.lengths = [network.blobs, network.blobs * GEOMETRY, (network.blobs + 1) * appearance]
        numbers = sum(self.lengths)
        if network.z_dim > numbers:
            raise BlobexError(f"z_dim is {network.z_dim} but a layout has {numbers} numbers: make z_dim smaller")
        geometry = torch.tensor([PLACE * aspect_ratio, PLACE, ASPECT, 1.0, 1.0, 1.0]).repeat(network.blobs)
        weights = torch.full((self.lengths[0],), PRESENCE), geometry, torch.full((self.lengths[2],), APPEARANCE)
        self.register_buffer("weights", torch.cat(weights), persistent=False)
        self.register_buffer("mean", torch.zeros(numbers))
        self.register_buffer("components", torch.eye(network.z_dim, numbers))
        self.register_buffer("scale", torch.ones(()))
        self.velocity = Velocity(network.z_dim, network.layout_hidden, network.layout_layers)

    def forward(self, z: Tensor) -> BlobLayout:
        return self.from_w(self.to_w(z))

    @torch.no_grad()
    def to_w(self, z: Tensor, mlp_idx: int = -1) -> Tensor:
        """Return w (N,z_dim): z moved by the velocity from time 0 to 1, in STEPS steps of Heun's method."""
        self.w_size(mlp_idx)
        with torch.autocast(z.device.type, enabled=False):
            x = pixel_norm(z.float())
            for step in range(STEPS):
                time = x.new_full((len(x),), step / STEPS)
                first = self.velocity(x, time)
                second = self.velocity(x + first / STEPS, time + 1 / STEPS)
                x = x + (first + second) / (2 * STEPS)
            return x

    def from_w(self, w: Tensor, mlp_idx: int = -1) -> BlobLayout:
        """Return layouts for principal components w (N,z_dim)."""
        self.w_size(mlp_idx)
        with torch.autocast(w.device.type, enabled=False):
            numbers = self.mean + (w.float() * self.scale) @ self.components
            return self._to_layout(numbers / self.weights)

    def w_size(self, mlp_idx: int = -1) -> int:
        """Return the length of w. Raise BlobexError unless `mlp_idx` is -1, as a flow has one w only."""
        if mlp_idx != -1:
            raise BlobexError(f"mlp_idx is {mlp_idx} but a flow has one w only: set mlp_idx to -1")
        return self.network.z_dim

    @torch.no_grad()
    def fit(self, layout: BlobLayout, present: Tensor) -> None:
        """Set the principal components to those of N layouts of real images with visible blobs `present` (N,K).

        They are computed by random projections of a fixed seed (Halko et al., SIAM Review 2011, algorithm 4.4).
        """
        numbers, defined = self._numbers(layout, present), self._defined(present)
        self.mean.copy_((numbers * defined).sum(0) / defined.sum(0).clamp(min=1))
        centred = self._centred(layout, present)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, values, vectors = torch.svd_lowrank(centred, q=min(self.network.z_dim, len(centred)), niter=4)
        self.components.zero_()[: vectors.shape[1]] = vectors.T
        self.scale.copy_((values.square().sum() / len(centred) / self.network.z_dim).sqrt().clamp(min=1e-6))

    @torch.no_grad()
    def project(self, layout: BlobLayout, present: Tensor) -> Tensor:
        """Return w (N,z_dim) of layouts with `present` (N,K) blobs: the inverse of `from_w`, up to the residual."""
        return self._centred(layout, present) @ self.components.T / self.scale

    def _centred(self, layout: BlobLayout, present: Tensor) -> Tensor:
        """Differences (N,numbers) to the mean layout; an absent blob differs in its presence only."""
        return (self._numbers(layout, present) - self.mean) * self._defined(present)

    def _numbers(self, layout: BlobLayout, present: Tensor) -> Tensor:
        """Weighted numbers (N,numbers) of layouts: presence, geometry and appearance of all blobs."""
        ux, uy = layout.covs[..., 2:].unbind(-1)
        ratio = (layout.covs[..., 0] - layout.covs[..., 1]) / 4
        doubled = ux.square() - uy.square(), 2 * ux * uy
        root = layout.sizes[:, 1:].clamp(min=0).sqrt()
        geometry = torch.stack([layout.xs, layout.ys, ratio, *doubled, root], dim=2)
        appearance = torch.cat([layout.features, layout.spatial_style], dim=2)
        parts = present.float(), geometry.flatten(1), appearance.flatten(1)
        return torch.cat(parts, dim=1) * self.weights

    def _defined(self, present: Tensor) -> Tensor:
        """Mask (N,numbers): 0 for geometry and appearance of absent blobs, else 1."""
        blobs = present.float()
        entries = F.pad(blobs, (1, 0), value=1.0)
        width = self.lengths[2] // entries.shape[1]
        parts = torch.ones_like(blobs), blobs.repeat_interleave(GEOMETRY, 1), entries.repeat_interleave(width, 1)
        return torch.cat(parts, dim=1)

    def _to_layout(self, numbers: Tensor) -> BlobLayout:
        presence, geometry, appearance = numbers.split(self.lengths, dim=1)
        xs, ys, ratio, cosine, sine, root = geometry.view(len(numbers), -1, GEOMETRY).unbind(-1)
        lengths = [self.network.feature_dim, self.network.style_dim]
        features, styles = appearance.view(len(numbers), self.network.blobs + 1, -1).split(lengths, dim=2)
        if self.network.norm_features:
            features, styles = pixel_norm(features, FEATURE_EPSILON), pixel_norm(styles, FEATURE_EPSILON)
        angle = torch.atan2(sine, cosine) / 2
        visible = (SHARPNESS * (presence - 0.5)).sigmoid()
        sizes = ABSENT + (root.clamp(min=0).square() - ABSENT) * visible
        covs = torch.stack([2 * ratio, -2 * ratio, angle.cos(), angle.sin()], dim=2)
        return BlobLayout(xs.clamp(0, 1), ys.clamp(0, 1), covs, F.pad(sizes, (1, 0)), features, styles)


class Velocity(nn.Module):
    """Velocity of a point x (N,dim) between noise and w at time t (N,) in [0,1]."""

    def __init__(self, dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(dim, width), nn.Linear(width, dim)
        self.time = nn.Linear(2 * FREQUENCIES, 2 * FREQUENCIES)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        waves = t[:, None] * math.pi * torch.logspace(0, 2, FREQUENCIES, device=t.device)
        time = F.silu(self.time(torch.cat([waves.sin(), waves.cos()], dim=1)))
        x = self.first(x)
        for block in self.blocks:
            x = block(x, time)
        return self.last(x)


class _Block(nn.Module):
    """Residual block whose normalised input is scaled and shifted by the time embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(width), nn.Linear(2 * FREQUENCIES, 2 * width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        for layer in (self.modulation, self.outer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.modulation(time).chunk(2, dim=1)
        return x + self.outer(F.silu(self.inner(self.norm(x) * (1 + scale) + shift)))
