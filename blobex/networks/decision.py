"""The decision model: a DenseNet (Huang et al., CVPR 2017) with one logit per action, or also per reason."""

from __future__ import annotations

import dataclasses
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

SMALLEST = 32  # pixels: the body halves pictures five times
BLOCKS = {"densenet121": (6, 12, 24, 16), "densenet_small": (2, 4, 8, 4)}  # layers of each dense block


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """What config.yaml says of a decision model: the arguments of `DecisionModel`."""

    architecture: Literal["densenet121", "densenet_small"]
    height: Annotated[Int, Field(ge=SMALLEST, le=1024)]
    width: Annotated[Int, Field(ge=SMALLEST, le=4096)]
    outputs: Int


class DecisionModel(nn.Module):
    """Pictures (N,3,H,W) in [-1,1] to logits (N,outputs), which `output_names` names.

    There are 4 outputs, in the order of `scenes.rules.ACTIONS`, or 25: the reasons of `scenes.rules.REASONS` follow.
    The tensors of `body` have torchvision's names for a DenseNet's `features`.
    """

    def __init__(self, architecture: str, height: int, width: int, outputs: int = len(ACTIONS)) -> None:
        super().__init__()
        if min(height, width) < SMALLEST:
            raise BlobexError(f"the decision model needs pictures of {SMALLEST} pixels or more: enlarge the setup")
        if architecture not in BLOCKS:
            raise BlobexError(f"unknown decision architecture {architecture!r}: choose {' or '.join(BLOCKS)}")
        if outputs not in (len(ACTIONS), len(ACTIONS + REASONS)):
            raise BlobexError(
                f"a decision model cannot have {outputs} outputs: it has {len(ACTIONS)} actions, or those and "
                f"{len(REASONS)} reasons"
            )
        self.config: dict[str, Any] = {
            "architecture": architecture,
            "height": height,
            "width": width,
            "outputs": outputs,
        }
        if architecture == "densenet121":
            densenet = torchvision.models.densenet121(weights=None, num_classes=outputs)
        else:
            densenet = torchvision.models.DenseNet(12, BLOCKS[architecture], num_init_features=24, num_classes=outputs)
        self.body, self.classifier = densenet.features, densenet.classifier

    @property
    def output_names(self) -> tuple[str, ...]:
        """One name per logit."""
        return (ACTIONS + REASONS)[: self.classifier.out_features]

    def features(self, x: Tensor) -> Tensor:
        """The vector before the classifier: (N,1024) float32 for densenet121."""
        return F.relu(self.body(x)).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        # Row by row: a matrix product may round a row by its place in the batch.
        weighted = self.features(x)[:, None] * self.classifier.weight.float()
        return weighted.sum(-1) + self.classifier.bias.float()


def load_decision(folder: Path) -> DecisionModel:
    """The decision model saved in a folder, frozen. BlobexError if there is none."""
    saved = weights.read_saved(folder, "decision", _Saved, outputs=len(ACTIONS))
    with weights.config_errors(folder, "decision"):
        model = DecisionModel(**dataclasses.asdict(saved))
    weights.load_state(folder, "decision", model)
    return model.eval().requires_grad_(False)
