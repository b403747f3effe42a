"""DenseNet (Huang et al., CVPR 2017) whose outputs for an image do not depend on the other images of its batch.

Its parameters have torchvision's names, order and initial values; torchvision takes as long to import as torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.core.errors import BlobexError

SMALLEST = 32  # pixels: the body halves images five times
BLOCKS = {"densenet121": (6, 12, 24, 16), "densenet_small": (2, 4, 8, 4)}  # layers of each dense block
WIDTHS = {"densenet121": (64, 32), "densenet_small": (24, 12)}  # channels of the first layer; added by each layer
BOTTLENECK = 4  # channels between the two convolutions of a layer, per channel that it adds


class DenseNet(nn.Module):
    """Network from images (N,3,H,W) in [-1,1] to (N,outputs). `body` has the layers before the last.

    Raises:
        BlobexError: if the images are too small or the architecture is unknown.
    """

    def __init__(self, architecture: str, height: int, width: int, outputs: int) -> None:
        super().__init__()
        if min(height, width) < SMALLEST:
            raise BlobexError(f"a DenseNet needs images of {SMALLEST} pixels or more: enlarge the setup")
        if architecture not in BLOCKS:
            raise BlobexError(f"unknown decision architecture {architecture!r}: choose {' or '.join(BLOCKS)}")
        self.body, channels = _body(BLOCKS[architecture], *WIDTHS[architecture])
        self.classifier = nn.Linear(channels, outputs)
        for layer in self.body.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Tensor) -> Tensor:
        """Return the vectors before the last layer: (N,1024) float32 for densenet121."""
        return F.relu(self.body(x)).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        # Not a matrix product, which may round a row by its position in the batch.
        weighted = self.features(x)[:, None] * self.classifier.weight.float()
        return weighted.sum(-1) + self.classifier.bias.float()


class DenseLayer(nn.Module):
    """Channels (N,growth,h,w) that are added to the input (N,C,h,w) (section 3: bottleneck layers)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(F.relu(self.norm1(x), inplace=True))
        return self.conv2(F.relu(self.norm2(x), inplace=True))


class DenseBlock(nn.Module):
    """Dense layers, each of which reads the input and what all layers before it have added."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        for number in range(layers):
            self.add_module(f"denselayer{number + 1}", DenseLayer(channels + number * growth, growth))

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for layer in self.children():
            parts.append(layer(torch.cat(parts, 1)))
        return torch.cat(parts, 1)


def _body(blocks: tuple[int, ...], channels: int, growth: int) -> tuple[nn.Sequential, int]:
    """Return the layers from the image to the last dense block, and the number of its channels."""
    body = nn.Sequential()
    body.add_module("conv0", nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False))
    body.add_module("norm0", nn.BatchNorm2d(channels))
    body.add_module("relu0", nn.ReLU(inplace=True))
    body.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
    for number, layers in enumerate(blocks, start=1):
        body.add_module(f"denseblock{number}", DenseBlock(channels, growth, layers))
        channels += layers * growth
        if number < len(blocks):
            body.add_module(f"transition{number}", _transition(channels))
            channels //= 2
    body.add_module(f"norm{len(blocks) + 1}", nn.BatchNorm2d(channels))
    return body, channels


def _transition(channels: int) -> nn.Sequential:
    """Return layers that halve channels, height and width."""
    transition = nn.Sequential()
    transition.add_module("norm", nn.BatchNorm2d(channels))
    transition.add_module("relu", nn.ReLU(inplace=True))
    transition.add_module("conv", nn.Conv2d(channels, channels // 2, 1, bias=False))
    transition.add_module("pool", nn.AvgPool2d(2, stride=2))
    return transition
