"""Real or generated: StyleGAN2's residual discriminator (CVPR 2020), for pictures of any whole aspect ratio."""

from __future__ import annotations

from blobex.config.training import Network
from blobex.networks.blobgan import check_levels
from blobex.networks.residual import ResidualNetwork

SMALLEST = 4


def build_discriminator(network: Network, height: int, aspect_ratio: int) -> ResidualNetwork:
    """Pictures (N,3,height,width) to logits (N,1), high for real ones."""
    check_levels(network.discriminator_channels, SMALLEST, height, "discriminator_channels")
    return ResidualNetwork(network.discriminator_channels, aspect_ratio, outputs=1, standard_deviation=True)
