"""Encoder of images to w, with StyleGAN2's residual body or a ResNet-18."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import torchvision
from pydantic import Field
from torch import Tensor, nn

from blobex.config.value_types import SECTION, Int
from blobex.networks import weights
from blobex.networks.ops import at_least_float32, check_levels
from blobex.networks.residual import SMALLEST, ResidualNetwork


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
            self.body = torchvision.models.resnet18(weights=None, num_classes=w_size)

    def forward(self, x: Tensor) -> Tensor:
        return at_least_float32(self.body(x))


def load_encoder(folder: Path, kind: str = "encoder") -> Encoder:
    """Load a saved encoder, frozen; raise BlobexError if there is none. `kind` is its stage, or encoder_pretrain."""
    return weights.load_network(folder, kind, _Saved, Encoder)
