"""Perceptual distance between pictures, in the form of LPIPS (Zhang et al., CVPR 2018, section 3.1)."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from blobex.errors import BlobexError
from blobex.networks.parser import load_parser

EPSILON = 1e-10  # keeps the gradient finite where all channels are zero
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of colours from 0 to 1


@dataclass(frozen=True)
class Backbone:
    """A torchvision network, its weights' file, and the layers of its `features` that LPIPS reads."""

    build: Callable[..., nn.Module]
    file: str
    taps: tuple[int, ...]


BACKBONES: Mapping[str, Backbone] = {
    "vgg": Backbone(torchvision.models.vgg16, "vgg16-397923af.pth", (3, 8, 15, 22, 29)),
    "alex": Backbone(torchvision.models.alexnet, "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11)),
    "squeeze": Backbone(torchvision.models.squeezenet1_1, "squeezenet1_1-b8a52dc0.pth", (1, 4, 7, 9, 10, 11, 12)),
}


class PerceptualDistance(nn.Module):
    """The distance that the layers of `network` see: 0 for identical pictures.

    `layers` maps pictures (N,3,H,W) in [-1,1] to feature maps (N,C,h,w). `channel_weights` holds C numbers from 0 per
    layer; without them every channel counts 1. Frozen; gradients reach the pictures.
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
        """The layers' maps of pictures (N,3,H,W), every position's channels scaled to length 1."""
        maps = [layer.float() for layer in self.layers(x)]
        return [layer * (layer.square().sum(1, keepdim=True) + EPSILON).rsqrt() for layer in maps]

    def distance_to(self, embedded: Sequence[Tensor], x: Tensor) -> Tensor:
        """Distances (N,) of pictures from pictures that `embed` has prepared."""
        total = torch.zeros(len(x), device=x.device)
        for number, (one, other) in enumerate(zip(self.embed(x), embedded, strict=True)):
            squares = (one - other).square()
            if len(self.channel_weights):
                squares = squares * self.channel_weights[number].view(1, -1, 1, 1)
            total = total + squares.sum(1).mean((1, 2))
        return total

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (N,) between the pictures of two batches."""
        return self.distance_to(self.embed(a), b)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(a, b)


class TappedBackbone(nn.Module):
    """The chosen layers of a torchvision network trained on ImageNet, for pictures in [-1,1]."""

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


def load_perceptual(network: str, parser_folder: Path) -> PerceptualDistance:
    """The distance of network "parser" (saved in `parser_folder`), or of LPIPS with "vgg", "alex" or "squeeze".

    BlobexError if the network is missing; its message says which file belongs where.
    """
    if network == "parser":
        parser = load_parser(parser_folder)
        return PerceptualDistance(parser, parser.features)
    if network not in BACKBONES:
        raise BlobexError(f"unknown perceptual network {network!r}: choose parser, {', '.join(BACKBONES)}")
    backbone = BACKBONES[network]
    body = backbone.build(weights=None)
    state = _read(Path(torch.hub.get_dir()) / "checkpoints" / backbone.file, f"torchvision's weights of {network}")
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        raise BlobexError(f"{backbone.file} does not hold the weights of {network}: get it again") from error
    tapped = TappedBackbone(body.get_submodule("features"), backbone.taps)
    return PerceptualDistance(tapped, tapped, lpips_weights(network))


def lpips_weights(network: str) -> list[Tensor]:
    """The channel weights that LPIPS learned, one (C,) per layer; they come with the package lpips."""
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        raise BlobexError("the package lpips is not installed: install it, or set data.perceptual to parser")
    state = _read(Path(package.origin).parent / "weights" / "v0.1" / f"{network}.pth", f"LPIPS's weights for {network}")
    return [state[f"lin{number}.model.1.weight"].flatten() for number in range(len(BACKBONES[network].taps))]


def _read(path: Path, meaning: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BlobexError(f"{path.name} is missing: put {meaning} at {path}") from error
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise BlobexError(f"{path} is damaged: put {meaning} there again") from error
    return state
