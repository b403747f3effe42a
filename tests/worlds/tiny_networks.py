"""Networks of a few thousand parameters, for 16x16 images."""

import dataclasses

import torch
from torch import nn

from blobex.config.training import Network
from blobex.layout.blobs import BlobLayout
from blobex.networks.blobgan import BlobGAN

HEIGHT = 16
TINY = Network(
    blobs=3,
    blob_area=0.02,
    size_in=8,
    feature_dim=6,
    style_dim=5,
    layout="mlp",
    z_dim=16,
    layout_hidden=12,
    layout_layers=4,
    norm_features=True,
    channels={8: 8, 16: 4},
    discriminator_channels={4: 8, 8: 6, 16: 4},
    rectangle="native",
)


def tiny_network(**changes) -> Network:
    """Return TINY with some fields replaced."""
    return dataclasses.replace(TINY, **changes)


def randomise(module: nn.Module, seed: int = 0, spread: float = 0.5) -> nn.Module:
    """Perturb all parameters: initial zeros and ones would hide errors."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=random).to(parameter))
    return module


def random_blobgan(network: Network = TINY, height: int = HEIGHT, aspect_ratio: int = 1, seed: int = 0) -> BlobGAN:
    """Build a frozen BlobGAN with random parameters and mean of w, whose layouts differ widely."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlobGAN(network, height, aspect_ratio)
    randomise(model, seed)
    with torch.no_grad():
        model.layout_network.layers[-1].weight.mul_(2)
        model.mean_w.copy_(torch.randn(network.layout_hidden, generator=torch.Generator().manual_seed(seed)))
    return model.eval().requires_grad_(False)


def random_layout(count: int, blobs: int, dim: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> BlobLayout:
    """Return layouts with blobs of all sizes, directions and positions."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)

    return BlobLayout(
        xs=normal(count, blobs).sigmoid(),
        ys=normal(count, blobs).sigmoid(),
        covs=normal(count, blobs, 4),
        sizes=2 * normal(count, blobs + 1),
        features=normal(count, blobs + 1, dim),
        spatial_style=normal(count, blobs + 1, dim),
    )
