"""Layout network: an MLP from noise to layouts (BlobGAN, ECCV 2022, section 3.1)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from blobex.config.training import Network
from blobex.core.errors import BlobexError
from blobex.layout.blobs import BlobLayout
from blobex.networks.ops import EqualLinear, leaky, pixel_norm

LEARNING_RATE_MULTIPLIER = 0.01
FEATURE_EPSILON = 1e-5


class LayoutNetwork(nn.Module):
    """MLP from pixel-normalised z (N,z_dim) to layouts."""

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
        return BlobLayout(xs=xs, ys=ys, covs=covs, sizes=sizes, features=features, spatial_style=styles)
