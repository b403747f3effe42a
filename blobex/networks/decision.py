"""Decision model: a DenseNet (Huang et al., CVPR 2017) with one logit per action, and optionally per reason."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import torch.nn.functional as F
import torchvision
from pydantic import Field
from torch import Tensor, nn

from blobex.config.value_types import SECTION, Int
from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.scenes.rules import ACTIONS, REASONS

SMALLEST = 32  # pixels: the body halves images five times
BLOCKS = {"densenet121": (6, 12, 24, 16), "densenet_small": (2, 4, 8, 4)}  # layers of each dense block


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Arguments of `DecisionModel` in config.yaml."""

    architecture: Literal["densenet121", "densenet_small"]
    height: Annotated[Int, Field(ge=SMALLEST, le=1024)]
    width: Annotated[Int, Field(ge=SMALLEST, le=4096)]
    outputs: Int


class DecisionModel(nn.Module):
    """Network from images (N,3,H,W) in [-1,1] to logits (N,outputs), named by `output_names`.

    `body` is torchvision's `features` of a DenseNet. The outputs are the 4 actions of `scenes.rules`, or 25 with its
    reasons after them.

    Raises:
        BlobexError: if an argument is out of range.
    """

    def __init__(self, architecture: str, height: int, width: int, outputs: int = len(ACTIONS)) -> None:
        super().__init__()
        if min(height, width) < SMALLEST:
            raise BlobexError(f"the decision model needs images of {SMALLEST} pixels or more: enlarge the setup")
        if architecture not in BLOCKS:
            raise BlobexError(f"unknown decision architecture {architecture!r}: choose {' or '.join(BLOCKS)}")
        if outputs not in (len(ACTIONS), len(ACTIONS + REASONS)):
            choices = f"{len(ACTIONS)} actions, or those and {len(REASONS)} reasons"
            raise BlobexError(f"a decision model cannot have {outputs} outputs: it has {choices}")
        self.config = dict[str, Any](architecture=architecture, height=height, width=width, outputs=outputs)
        if architecture == "densenet121":
            densenet = torchvision.models.densenet121(weights=None, num_classes=outputs)
        else:
            densenet = torchvision.models.DenseNet(12, BLOCKS[architecture], num_init_features=24, num_classes=outputs)
        self.body, self.classifier = densenet.features, densenet.classifier

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the logits."""
        return (ACTIONS + REASONS)[: self.classifier.out_features]

    def features(self, x: Tensor) -> Tensor:
        """Return the vectors before the classifier: (N,1024) float32 for densenet121."""
        return F.relu(self.body(x)).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        # Not a matrix product, which may round a row by its position in the batch.
        weighted = self.features(x)[:, None] * self.classifier.weight.float()
        return weighted.sum(-1) + self.classifier.bias.float()


def load_decision(folder: Path) -> DecisionModel:
    """Load a saved decision model, frozen; raise BlobexError if there is none."""
    return weights.load_network(folder, "decision", _Saved, DecisionModel, defaults={"outputs": len(ACTIONS)})
