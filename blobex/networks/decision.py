"""The decision model: a DenseNet (Huang et al., CVPR 2017) with one logit per action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from blobex.errors import BlobexError
from blobex.networks import weights
from blobex.scenes.rules import ACTIONS

SMALLEST = 32  # pixels: the body halves pictures five times


class DecisionModel(nn.Module):
    """Pictures (N,3,H,W) in [-1,1] to logits (N,4), in the order of `scenes.rules.ACTIONS`.

    The tensors of `body` have torchvision's names for a DenseNet's `features`.
    """

    def __init__(self, architecture: str, height: int, width: int) -> None:
        super().__init__()
        if min(height, width) < SMALLEST:
            raise BlobexError(f"the decision model needs pictures of {SMALLEST} pixels or more: enlarge the setup")
        self.config: dict[str, Any] = {"architecture": architecture, "height": height, "width": width}
        if architecture == "densenet121":
            densenet = torchvision.models.densenet121(weights=None, num_classes=len(ACTIONS))
        elif architecture == "densenet_small":
            densenet = torchvision.models.DenseNet(12, (2, 4, 8, 4), num_init_features=24, num_classes=len(ACTIONS))
        else:
            raise BlobexError(f"unknown decision architecture {architecture!r}: choose densenet121 or densenet_small")
        self.body, self.classifier = densenet.features, densenet.classifier

    def features(self, x: Tensor) -> Tensor:
        """The vector before the classifier: (N,1024) float32 for densenet121."""
        return F.relu(self.body(x)).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x)).float()


def load_decision(folder: Path) -> DecisionModel:
    """The decision model saved in a folder, frozen. BlobexError if there is none."""
    config = weights.read_config(folder, "decision")
    try:
        model = DecisionModel(config["architecture"], config["height"], config["width"])
    except (KeyError, TypeError) as error:
        raise BlobexError(f"the config in {folder} is damaged: run `dvc repro decision` again") from error
    weights.load_state(folder, "decision", model)
    return model.eval().requires_grad_(False)
