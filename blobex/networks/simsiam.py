"""SimSiam's ResNet-50 and projector (Chen and He, CVPR 2021), whose outputs the measure S3 compares."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from blobex.core.errors import BlobexError
from blobex.networks.external import FILES, read_tensors
from blobex.networks.perceptual import IMAGENET_MEAN, IMAGENET_STD

WIDTH = 2048  # of the backbone's output, and of the projector's
ENCODER = re.compile(r"(?:module\.)?encoder\.(.+)")  # the projector stands where ResNet has its classifier


class SimSiam(nn.Module):
    """Network from images (N,3,H,W) in [-1,1], of any size, to the projector's output (N,2048) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torchvision.models.resnet50(weights=None)
        self.encoder.fc = projector(WIDTH)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 2 - 1, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 2, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder((x - self.mean) / self.std).float()


def projector(width: int) -> nn.Sequential:
    """Build the projector of three layers, the last without scale and offset (section 3 of SimSiam)."""
    hidden = [
        layer
        for _ in range(2)
        for layer in (nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True))
    ]
    return nn.Sequential(*hidden, nn.Linear(width, width), nn.BatchNorm1d(width, affine=False))


def load_simsiam(path: Path) -> SimSiam:
    """Load a published checkpoint, frozen: `module.encoder.*` under `state_dict`; the predictor is not used.

    Raises BlobexError if the file is missing, damaged or of another form.
    """
    content = FILES["simsiam"].content
    checkpoint = read_tensors(path, content)
    with torch.random.fork_rng(devices=[]):
        network = SimSiam()
    try:
        state = checkpoint["state_dict"].items()
        encoder = {match[1]: tensor for name, tensor in state if (match := ENCODER.fullmatch(str(name)))}
        network.encoder.load_state_dict(encoder)
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise BlobexError(f"{path} is another network: put {content} there") from error
    return network.eval().requires_grad_(False)
