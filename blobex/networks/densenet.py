"""DenseNet (Huang et al., CVPR 2017) whose outputs for an image do not depend on the other images of its batch."""

from __future__ import annotations

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from blobex.core.errors import BlobexError

SMALLEST = 32  # pixels: the body halves images five times
BLOCKS = {"densenet121": (6, 12, 24, 16), "densenet_small": (2, 4, 8, 4)}  # layers of each dense block


class DenseNet(nn.Module):
    """Network from images (N,3,H,W) in [-1,1] to (N,outputs). `body` is torchvision's `features` of a DenseNet.

    Raises:
        BlobexError: if the images are too small or the architecture is unknown.
    """

    def __init__(self, architecture: str, height: int, width: int, outputs: int) -> None:
        super().__init__()
        if min(height, width) < SMALLEST:
            raise BlobexError(f"a DenseNet needs images of {SMALLEST} pixels or more: enlarge the setup")
        if architecture not in BLOCKS:
            raise BlobexError(f"unknown decision architecture {architecture!r}: choose {' or '.join(BLOCKS)}")
        if architecture == "densenet121":
            densenet = torchvision.models.densenet121(weights=None, num_classes=outputs)
        else:
            densenet = torchvision.models.DenseNet(12, BLOCKS[architecture], num_init_features=24, num_classes=outputs)
        self.body, self.classifier = densenet.features, densenet.classifier

    def features(self, x: Tensor) -> Tensor:
        """Return the vectors before the last layer: (N,1024) float32 for densenet121."""
        return F.relu(self.body(x)).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        # Not a matrix product, which may round a row by its position in the batch.
        weighted = self.features(x)[:, None] * self.classifier.weight.float()
        return weighted.sum(-1) + self.classifier.bias.float()
