"""Control model: a small DenseNet (Huang et al., CVPR 2017) that gives steering and brake, a regression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pydantic.dataclasses
import torch.nn.functional as F
import torchvision
from pydantic import Field
from torch import Tensor, nn

from blobex.config.value_types import SECTION, Int
from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.networks.decision import BLOCKS, SMALLEST
from blobex.scenes.controls import CONTROLS


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Arguments of `ControlModel` in config.yaml."""

    height: Annotated[Int, Field(ge=SMALLEST, le=1024)]
    width: Annotated[Int, Field(ge=SMALLEST, le=4096)]


class ControlModel(nn.Module):
    """Network from images (N,3,H,W) in [-1,1] to `scenes.controls.CONTROLS` (N,2); BlobexError if they are small."""

    output_names = CONTROLS

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        if min(height, width) < SMALLEST:
            raise BlobexError(f"the control model needs images of {SMALLEST} pixels or more: enlarge the setup")
        self.config = dict[str, Any](height=height, width=width)
        blocks = BLOCKS["densenet_small"]
        densenet = torchvision.models.DenseNet(12, blocks, num_init_features=24, num_classes=len(CONTROLS))
        self.body, self.head = densenet.features, densenet.classifier

    def features(self, x: Tensor) -> Tensor:
        """Return the vectors before the last layer, float32 (N,D)."""
        return F.relu(self.body(x)).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        # Not a matrix product, which may round a row by its position in the batch.
        return (self.features(x)[:, None] * self.head.weight.float()).sum(-1) + self.head.bias.float()


def load_control(folder: Path) -> ControlModel:
    """Load a saved control model, frozen; raise BlobexError if there is none."""
    return weights.load_network(folder, "control", _Saved, ControlModel)
