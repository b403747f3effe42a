"""Encoder of images to w, and StyleGAN2's residual network (CVPR 2020, section 4.1) with the discriminator."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import torch
from pydantic import Field
from torch import Tensor, nn

from blobex.config.training import Network
from blobex.config.value_types import SECTION, Int
from blobex.networks import weights
from blobex.networks.ops import EqualConv, EqualLinear, at_least_float32, blur, check_levels, leaky

SMALLEST = 4  # height of the last level
STANDARD_DEVIATION_GROUP = 4


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Arguments of `Encoder` in config.yaml."""

    architecture: Literal["stylegan", "resnet"]
    channels: dict[Int, Annotated[Int, Field(ge=1, le=8192)]]
    height: Annotated[Int, Field(ge=1, le=4096)]
    aspect_ratio: Annotated[Int, Field(ge=1, le=16)]
    w_size: Annotated[Int, Field(ge=1, le=2**20)]
    mlp_idx: Annotated[Int, Field(ge=-64, le=-1)]


class Encoder(nn.Module):
    """Network from images (N,3,height,width) in [-1,1] to w (N,w_size), the activation before layer `mlp_idx`.

    `channels` is used by the architecture "stylegan" only.
    """

    def __init__(
        self, architecture: str, channels: dict[int, int], height: int, aspect_ratio: int, w_size: int, mlp_idx: int
    ) -> None:
        super().__init__()
        self.mlp_idx = mlp_idx
        self.config: dict[str, Any] = {"architecture": architecture, "channels": channels, "height": height}
        self.config |= {"aspect_ratio": aspect_ratio, "w_size": w_size, "mlp_idx": mlp_idx}
        self.body: nn.Module
        if architecture == "stylegan":
            check_levels(channels, SMALLEST, height, "channels")
            self.body = ResidualNetwork(channels, aspect_ratio, outputs=w_size, standard_deviation=False)
        else:
            from torchvision.models import resnet18  # slow to import

            self.body = resnet18(weights=None, num_classes=w_size)

    def forward(self, x: Tensor) -> Tensor:
        return at_least_float32(self.body(x))


def load_encoder(folder: Path, kind: str = "encoder") -> Encoder:
    """Load a saved encoder, frozen; raise BlobexError if there is none. `kind` is its stage, or encoder_pretrain."""
    return weights.load_network(folder, kind, _Saved, Encoder)


class ResidualBlock(nn.Module):
    """Residual block that halves height and width; the sum of both branches keeps the variance."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(inputs, inputs, 3, padding=1)
        self.conv2 = EqualConv(inputs, outputs, 3, stride=2)
        self.skip = EqualConv(inputs, outputs, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(blur(self.conv1(x), padding=2))
        return (out + self.skip(blur(x, padding=1)[:, :, ::2, ::2])) * math.sqrt(0.5)


class ResidualNetwork(nn.Module):
    """Network from images (N,3,height,width) to vectors (N,outputs), with `channels` by level height from 4 on.

    With `standard_deviation`, a channel with the standard deviation over groups of the batch is appended (Karras et
    al., ICLR 2018, section 3).
    """

    def __init__(self, channels: Mapping[int, int], aspect_ratio: int, outputs: int, standard_deviation: bool) -> None:
        super().__init__()
        heights = sorted(channels, reverse=True)
        last = channels[heights[-1]]
        self.from_rgb = EqualConv(3, channels[heights[0]], 1)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels[above], channels[below]) for above, below in itertools.pairwise(heights)
        )
        self.standard_deviation = standard_deviation
        self.final_conv = EqualConv(last + int(standard_deviation), last, 3, padding=1)
        self.hidden = EqualLinear(last * heights[-1] * heights[-1] * aspect_ratio, last)
        self.output = EqualLinear(last, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.from_rgb(x)
        for block in self.blocks:
            x = block(x)
        if self.standard_deviation:
            x = torch.cat([x, standard_deviation_map(x)], dim=1)
        x = self.final_conv(x)
        x = leaky(self.hidden(x.flatten(1)))
        return at_least_float32(self.output(x))


def standard_deviation_map(x: Tensor) -> Tensor:
    """Return the mean standard deviation over each group of images as a channel (N,1,h,w).

    Groups have four images. A batch that four does not divide is one group, as in the published code.
    """
    batch, _, height, width = x.shape
    group = batch if batch % STANDARD_DEVIATION_GROUP else STANDARD_DEVIATION_GROUP
    groups = at_least_float32(x).reshape(group, batch // group, -1)
    spread = groups.var(0, unbiased=False).add(1e-8).sqrt().mean(-1)
    return spread.to(x.dtype).repeat(group).view(batch, 1, 1, 1).expand(batch, 1, height, width)


def build_discriminator(network: Network, height: int, aspect_ratio: int) -> ResidualNetwork:
    """Build the discriminator: images (N,3,height,width) to logits (N,1), high for real images."""
    check_levels(network.discriminator_channels, SMALLEST, height, "discriminator_channels")
    return ResidualNetwork(network.discriminator_channels, aspect_ratio, outputs=1, standard_deviation=True)
