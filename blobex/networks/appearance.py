"""Decoder of appearance codes: from the features and styles of a layout to what the generator draws of each blob."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blobex.config.training import Appearance
from blobex.layout.blobs import BlobLayout
from blobex.networks.ops import EqualLinear, pixel_norm

FEATURE_EPSILON = 1e-5


@dataclass(frozen=True)
class DecodedAppearance:
    """What the generator draws of the background and K blobs."""

    features: Tensor  # N,K+1,feature_dim: splatted onto the input grid
    styles: Tensor  # N,K+1,style_dim: modulate the convolutions
    textures: dict[int, Tensor]  # N,K+1,G,G,C by level height: maps in the blobs' frames
    edges: Tensor | None  # N,K+1,E,E: maps in the blobs' frames, added to the opacity logits


class AppearanceDecoder(nn.Module):
    """Linear decoder of codes, the features and styles of a layout side by side.

    Args:
        settings: Sizes of the textures and edges.
        levels: Heights of the generator's levels that have textures.
        feature_dim, style_dim: Lengths of the decoded features and styles; a code is as long as both together.
    """

    def __init__(self, settings: Appearance, levels: list[int], feature_dim: int, style_dim: int) -> None:
        super().__init__()
        self.settings, self.levels = settings, levels
        texture = settings.texture_grid**2 * settings.texture_channels
        self.lengths = [feature_dim, style_dim, len(levels) * texture, settings.edge_grid**2]
        self.linear = EqualLinear(feature_dim + style_dim, sum(self.lengths))

    def forward(self, layout: BlobLayout) -> DecodedAppearance:
        """Decode the codes of a layout."""
        settings = self.settings
        codes = torch.cat([layout.features, layout.spatial_style], dim=2)
        features, styles, textures, edges = self.linear(codes).split(self.lengths, dim=2)
        grid, edge_grid, limit = settings.texture_grid, settings.edge_grid, settings.edge_limit
        maps = textures.unflatten(2, (len(self.levels), grid, grid, settings.texture_channels)).unbind(2)
        return DecodedAppearance(
            pixel_norm(features, FEATURE_EPSILON),
            pixel_norm(styles, FEATURE_EPSILON),
            dict(zip(self.levels, maps, strict=True)),
            limit * torch.tanh(edges.unflatten(2, (edge_grid, edge_grid)) / limit) if edge_grid else None,
        )
