"""Coarse to fine: a GAN of half the height is trained first, at a quarter of the cost (Karras et al., ICLR 2018)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config import Blobgan, Setup
from blobex.errors import BlobexError
from blobex.networks.generator import ToRGB
from blobex.training.gan import GanModule

FIRST = re.compile(r"(?<=^blocks\.)\d+")  # the discriminator's blocks are counted from the finest


def coarse_params(params: Blobgan, setup: Setup) -> tuple[Blobgan, Setup]:
    """The parameters of the same networks without their finest level, and of pictures half as high and wide.

    BlobexError if nothing coarser than the input grid would be left.
    """
    network, height = params.network, setup.height // 2
    if height <= network.size_in:
        raise BlobexError(
            f"blobgan.coarse_steps needs pictures higher than {2 * network.size_in}: set it to 0 for {setup.height}"
        )
    channels, discriminator = (
        {level: width for level, width in levels.items() if level <= height}
        for levels in (network.channels, network.discriminator_channels)
    )
    smaller = dataclasses.replace(network, channels=channels, discriminator_channels=discriminator)
    training = dataclasses.replace(params.training, steps=params.coarse_steps)
    coarse = dataclasses.replace(params, network=smaller, training=training, coarse_steps=0)
    return coarse, dataclasses.replace(setup, height=height)


def halved(images: Tensor) -> Tensor:
    """uint8 (N,3,H,W) to (N,3,H/2,W/2): means of 2x2 pixels, rounded."""
    return F.avg_pool2d(images.float(), 2).round().to(torch.uint8)


@torch.no_grad()
def grow(module: GanModule, coarse: GanModule) -> None:
    """Give the networks of `module` the weights of a GAN of half the height.

    The new level's picture begins at zero, so that the generator begins with the coarse pictures, enlarged. The
    discriminator's new level begins at random.
    """
    pairs = ((module.model, coarse.model), (module.average, coarse.average))
    for model, smaller in pairs:
        _load(model, smaller.state_dict())
        cast(ToRGB, model.generator.rgbs[-1]).conv.weight.zero_()
    shifted = {
        FIRST.sub(lambda found: str(int(found.group()) + 1), name): tensor
        for name, tensor in coarse.discriminator.state_dict().items()
        if not name.startswith("from_rgb.")
    }
    _load(module.discriminator, shifted)


def _load(network: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set the tensors of these names; BlobexError if one does not fit."""
    own = network.state_dict()
    wrong = [name for name, tensor in weights.items() if name not in own or own[name].shape != tensor.shape]
    if wrong:
        raise BlobexError(f"the coarse GAN's {wrong[0]} does not fit: train both with the same blobgan.network")
    network.load_state_dict({**own, **weights})
