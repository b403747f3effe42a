"""The backbone of SimSiam (Chen and He, CVPR 2021), whose features the measure S3 compares."""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from blobex.core.errors import BlobexError
from blobex.networks.external import FILES, read_tensors
from blobex.networks.perceptual import IMAGENET_MEAN, IMAGENET_STD

BACKBONE = re.compile(r"(?:module\.)?encoder\.(?!fc\.)(.+)")  # the projector stands where ResNet has its classifier


class SimSiam(nn.Module):
    """Pictures (N,3,H,W) in [-1,1], of any size, to features (N,2048) float32; `body` is a ResNet-50 without head."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(((x + 1) / 2 - self.mean) / self.std).float()


def load_simsiam(path: Path) -> SimSiam:
    """The backbone of a published checkpoint (`state_dict` of `module.encoder.*`), frozen; features are pooled.

    The projector and the predictor are dropped. BlobexError if the file is missing, damaged or of another form.
    """
    content = FILES["simsiam"].content
    checkpoint = read_tensors(path, content)
    with torch.device("meta"):  # no time and no random numbers for weights that are replaced at once
        body = torchvision.models.resnet50(weights=None)
    body.fc = nn.Identity()
    try:
        state = checkpoint["state_dict"].items()
        backbone = {match[1]: tensor for name, tensor in state if (match := BACKBONE.fullmatch(name))}
        body.to_empty(device="cpu").load_state_dict(backbone)
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise BlobexError(f"{path} is another network: put {content} there") from error
    return SimSiam(body).eval().requires_grad_(False)
