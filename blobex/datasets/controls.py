"""Images of the synthetic world and the controls of their scenes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.bdd import read_decisions
from blobex.datasets.datamodule import data_root, load_decisions
from blobex.scenes.controls import controls
from blobex.scenes.write import scene_of


@dataclass(frozen=True)
class ControlSet:
    images: Tensor  # N,3,H,W uint8
    controls: Tensor  # N,2 float32: scenes.controls.CONTROLS


def load_controls(params: Params, setup_name: str, split: str) -> ControlSet:
    """Load the images of decisions with the controls of their scenes; BlobexError if they are no synthetic scenes."""
    images = load_decisions(params, setup_name, split).images
    try:
        scenes = [scene_of(record.image) for record in read_decisions(data_root(params), split)]
    except BlobexError as error:
        raise BlobexError(f"steering and brake need synthetic scenes, so set control.setups to []: {error}") from error
    return ControlSet(images, torch.tensor([controls(scene) for scene in scenes], dtype=torch.float32))
