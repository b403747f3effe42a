"""BlobGAN: layout network and generator, with stored noise maps so that a layout has one rendering."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blobex.config.data import ImageSize
from blobex.config.read import parse
from blobex.config.training import Network
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_uint8
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import Canvas
from blobex.networks import weights
from blobex.networks.generator import Generator
from blobex.networks.layout_network import LayoutFlow, LayoutNetwork
from blobex.networks.ops import check_levels

NOISE_SEED = 0
LATENT_BATCH = 500


class BlobGAN(nn.Module):
    """Generator of images (N,3,height,width) from layouts, and of layouts from noise.

    The default noise maps of `render` and the mean of w are stored with the weights.
    """

    mean_w: Tensor

    def __init__(self, network: Network, height: int, aspect_ratio: int) -> None:
        super().__init__()
        check_levels(network.channels, network.size_in, height, "channels")
        self.network, self.height, self.aspect_ratio = network, height, aspect_ratio
        flow = network.layout == "flow"
        self.layout_network = LayoutFlow(network, aspect_ratio) if flow else LayoutNetwork(network)
        legacy = network.rectangle == "legacy" and aspect_ratio > 1
        if network.appearance is not None:
            check_appearance(network)
        canvas = Canvas(height, aspect_ratio, legacy, network.blob_area)
        self.generator = Generator(canvas, network.channels, network.feature_dim, network.style_dim, network.appearance)
        self.register_buffer("mean_w", torch.zeros(self.layout_network.w_size()))
        fixed = self.generator.random_noise(1, torch.Generator().manual_seed(NOISE_SEED))
        for index, noise in enumerate(fixed):
            self.register_buffer(f"noise_{index}", noise)

    @property
    def width(self) -> int:
        return self.height * self.aspect_ratio

    @property
    def z_dim(self) -> int:
        return self.network.z_dim

    def fixed_noise(self) -> list[Tensor]:
        """Return the stored noise maps (1,1,h,w), one per styled layer."""
        return [getattr(self, f"noise_{index}") for index in range(len(self.generator.noise_shapes()))]

    def render(self, layout: BlobLayout, noise: list[Tensor] | None = None) -> Tensor:
        """Render images (N,3,height,width), about in [-1,1], with the stored noise maps by default."""
        return self.generator(layout, self.fixed_noise() if noise is None else noise)

    def draw(self, layout: BlobLayout) -> tuple[Tensor, Tensor]:
        """Return `render` and `scores` of a layout, for less than the price of both."""
        return self.generator.draw(layout, self.fixed_noise())

    def scores(self, layout: BlobLayout) -> Tensor:
        """Return score maps (N,K+1,height,width) at the size of the images, background first; they sum to one."""
        return self.generator.scores(layout, self.generator.decode(layout))[self.height]

    def sample(self, z: Tensor, truncation: float = 0.0) -> BlobLayout:
        """Return layouts for z (N,z_dim), with w moved to its mean by `truncation` (BlobGAN, ECCV 2022, section 4)."""
        w = self.layout_network.to_w(z)
        return self.layout_network.from_w(self.mean_w * truncation + w * (1 - truncation))

    def layout_from_w(self, w: Tensor, mlp_idx: int = -1) -> BlobLayout:
        """Return layouts for w (N,w_size), the activation before layer `mlp_idx` of an MLP, or a flow's only w."""
        return self.layout_network.from_w(w, mlp_idx)

    @torch.no_grad()
    def compute_mean_w(self, samples: int, random: torch.Generator) -> None:
        """Set `mean_w` to the mean over `samples` random z, computed in batches and summed in float64."""
        total = torch.zeros_like(self.mean_w, dtype=torch.float64)
        for start in range(0, samples, LATENT_BATCH):
            batch = min(LATENT_BATCH, samples - start)
            z = torch.randn(batch, self.z_dim, generator=random, device=random.device).to(self.mean_w.device)
            total += self.layout_network.to_w(z).double().sum(0)
        self.mean_w.copy_(total / samples)

    def config(self) -> dict[str, Any]:
        """Return the argument of `from_config` that builds this network."""
        network = dataclasses.asdict(self.network)
        return {"height": self.height, "aspect_ratio": self.aspect_ratio, "network": network}


def check_appearance(network: Network) -> None:
    """Raise BlobexError unless the settings of the appearance fit the rest of the network."""
    assert network.appearance is not None
    unknown = sorted(set(network.appearance.texture_levels) - set(sorted(network.channels)[1:]))
    if unknown:
        raise BlobexError(
            f"appearance.texture_levels has {unknown}, which are no upsampled levels of channels: remove them"
        )
    if network.rectangle == "legacy" or network.norm_features:
        raise BlobexError("appearance needs rectangle native and norm_features false, as codes have no unit length")


@torch.no_grad()
def sample_images(model: BlobGAN, count: int, batch_size: int, seed: int, truncation: float = 0.0) -> Iterator[Tensor]:
    """Generate `count` random images in batches, uint8 (N,3,height,width); the batch size does not change them."""
    z = torch.randn(count, model.z_dim, generator=torch.Generator().manual_seed(seed))
    for part in z.to(model.mean_w.device).split(batch_size):
        yield to_uint8(model.render(model.sample(part, truncation)))


def from_config(config: dict[str, Any]) -> BlobGAN:
    """Build the untrained network of a saved config; raise BlobexError if the config is invalid."""
    network = parse(Network, config.get("network"), "network")
    size = parse(ImageSize, {name: config.get(name) for name in ("height", "aspect_ratio")}, "config")
    return BlobGAN(network, size.height, size.aspect_ratio)


def load_blobgan(folder: Path) -> BlobGAN:
    """Load a saved BlobGAN, frozen; raise BlobexError if there is none."""
    config = weights.read_config(folder, "blobgan")
    with weights.config_errors(folder, "blobgan"):
        model = from_config(config)
    weights.load_state(folder, "blobgan", model)
    return model.eval().requires_grad_(False)
