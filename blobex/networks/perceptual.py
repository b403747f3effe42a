"""Perceptual distance between images, in the form of LPIPS (Zhang et al., CVPR 2018, section 3.1)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from blobex.core.errors import BlobexError
from blobex.networks.external import EXTERNAL, FILES, read_tensors, require
from blobex.networks.parser import load_parser

EPSILON = 1e-10  # keeps the gradient finite where all channels are zero
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of colours in [0, 1]


class Backbone(NamedTuple):
    """Name of a torchvision network, and the indices of the layers of its `features` that LPIPS uses."""

    name: str
    taps: tuple[int, ...]


BACKBONES: Mapping[str, Backbone] = {
    "vgg": Backbone("vgg16", (3, 8, 15, 22, 29)),
    "alex": Backbone("alexnet", (1, 4, 7, 9, 11)),
    "squeeze": Backbone("squeezenet1_1", (1, 4, 7, 9, 10, 11, 12)),
}


class PerceptualDistance(nn.Module):
    """Squared distance between normalised features; 0 for identical images. Frozen; gradients reach the images.

    `layers` maps images (N,3,H,W) in [-1,1] to feature maps (N,C,h,w) with the module `network`; `channel_weights` are
    C non-negative weights per layer, 1 by default.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Callable[[Tensor], Sequence[Tensor]],
        channel_weights: Sequence[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.layers = network, layers
        self.channel_weights = nn.ParameterList(channel_weights or [])
        self.eval().requires_grad_(False)

    def embed(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of images (N,3,H,W), normalised to length 1 at each position."""
        maps = [features.float() for features in self.layers(x)]
        return [features * (features.square().sum(1, keepdim=True) + EPSILON).rsqrt() for features in maps]

    def distance_to(self, embedded: Sequence[Tensor], x: Tensor) -> Tensor:
        """Return distances (N,) of images to the images embedded by `embed`."""
        total = torch.zeros(len(x), device=x.device)
        for number, (one, other) in enumerate(zip(self.embed(x), embedded, strict=True)):
            squares = (one - other).square()
            if len(self.channel_weights):
                squares = squares * self.channel_weights[number].view(1, -1, 1, 1)
            total = total + squares.sum(1).mean((1, 2))
        return total

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Return distances (N,) between the images of two batches."""
        return self.distance_to(self.embed(a), b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(a, b)


class TappedBackbone(nn.Module):
    """Layers `taps` of a torchvision network trained on ImageNet, for images in [-1,1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Module, taps: Sequence[int]) -> None:
        super().__init__()
        self.features, self.taps = features, tuple(taps)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 2 - 1)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = (x - self.mean) / self.std, []
        for index, layer in enumerate(self.features.children()):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


def perceptual_name(network: str) -> str:
    """Return the name of the distance: lpips_<network> for the networks of LPIPS, else pd_<network>."""
    return f"lpips_{network}" if network in BACKBONES else f"pd_{network}"


def load_perceptual(network: str, parser_folder: Path, external: Path = EXTERNAL) -> PerceptualDistance:
    """Load the perceptual distance of the parser, or LPIPS for the `network` "vgg", "alex" or "squeeze".

    Raises:
        BlobexError: if the network is missing; the message says where to put which file.
    """
    if network == "parser":
        parser = load_parser(parser_folder)
        return PerceptualDistance(parser, parser.features)
    if network not in BACKBONES:
        raise BlobexError(f"unknown perceptual network {network!r}: choose parser, {', '.join(BACKBONES)}")
    from torchvision.models import get_model  # slow to import

    backbone, path = BACKBONES[network], require(network, external)
    state = read_tensors(path, FILES[network].content)
    with torch.device("meta"):  # takes no time and draws no random numbers
        body = get_model(backbone.name, weights=None)
    try:
        body.to_empty(device="cpu").load_state_dict(state)
    except RuntimeError as error:
        raise BlobexError(f"{path} holds no weights of {network}: put {FILES[network].content} there") from error
    tapped = TappedBackbone(body.get_submodule("features"), backbone.taps)
    return PerceptualDistance(tapped, tapped, lpips_weights(network))


def lpips_weights(network: str) -> list[Tensor]:
    """Return LPIPS's channel weights from the package lpips, one (C,) per layer."""
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        raise BlobexError("the package lpips is not installed: install it, or set data.perceptual to parser")
    path = Path(package.origin).parent / "weights" / "v0.1" / f"{network}.pth"
    state = read_tensors(path, f"LPIPS's weights for {network}")
    return [state[f"lin{number}.model.1.weight"].flatten() for number in range(len(BACKBONES[network].taps))]
