"""Decision model: a DenseNet with one logit per action, and optionally per reason."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic.dataclasses
from pydantic import Field

from blobex.config.value_types import SECTION, Int
from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.networks.densenet import SMALLEST, DenseNet
from blobex.scenes.rules import ACTIONS, REASONS


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Arguments of `DecisionModel` in config.yaml."""

    architecture: Literal["densenet121", "densenet_small"]
    height: Annotated[Int, Field(ge=SMALLEST, le=1024)]
    width: Annotated[Int, Field(ge=SMALLEST, le=4096)]
    outputs: Int


class DecisionModel(DenseNet):
    """Network from images (N,3,H,W) in [-1,1] to logits (N,outputs), named by `output_names`.

    The outputs are the 4 actions of `scenes.rules`, or 25 with its reasons after them.

    Raises:
        BlobexError: if an argument is out of range.
    """

    def __init__(self, architecture: str, height: int, width: int, outputs: int = len(ACTIONS)) -> None:
        if outputs not in (len(ACTIONS), len(ACTIONS + REASONS)):
            choices = f"{len(ACTIONS)} actions, or those and {len(REASONS)} reasons"
            raise BlobexError(f"a decision model cannot have {outputs} outputs: it has {choices}")
        super().__init__(architecture, height, width, outputs)
        self.config = dict[str, Any](architecture=architecture, height=height, width=width, outputs=outputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the logits."""
        return (ACTIONS + REASONS)[: self.classifier.out_features]


def load_decision(folder: Path) -> DecisionModel:
    """Load a saved decision model, frozen; raise BlobexError if there is none."""
    return weights.load_network(folder, "decision", _Saved, DecisionModel, defaults={"outputs": len(ACTIONS)})
