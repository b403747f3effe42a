"""Control model: a small DenseNet that gives steering and brake, a regression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pydantic.dataclasses
from pydantic import Field

from blobex.config.value_types import SECTION, Int
from blobex.networks import weights
from blobex.networks.densenet import SMALLEST, DenseNet
from blobex.scenes.controls import CONTROLS


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Arguments of `ControlModel` in config.yaml."""

    height: Annotated[Int, Field(ge=SMALLEST, le=1024)]
    width: Annotated[Int, Field(ge=SMALLEST, le=4096)]


class ControlModel(DenseNet):
    """Network from images (N,3,H,W) in [-1,1] to `scenes.controls.CONTROLS` (N,2); BlobexError if they are small."""

    output_names = CONTROLS

    def __init__(self, height: int, width: int) -> None:
        super().__init__("densenet_small", height, width, len(CONTROLS))
        self.config = dict[str, Any](height=height, width=width)


def load_control(folder: Path) -> ControlModel:
    """Load a saved control model, frozen; raise BlobexError if there is none."""
    return weights.load_network(folder, "control", _Saved, ControlModel)
