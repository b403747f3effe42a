"""The witnesses of a setup as callables.

Only stages and commands import this, and load witnesses after their search: nothing may be optimised against one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_float, to_tensor
from blobex.networks.parser import ParserOutput
from blobex.networks.weights import WEIGHTS
from blobex.networks.witness import load_witness
from blobex.perception.objects import read_scenes
from blobex.perception.reading import SceneReading

BATCH = 16
Decide = Callable[[Tensor], Tensor]  # images (N,3,H,W) in [-1,1] to logits (N,4) of `rules.ACTIONS`
Read = Callable[[Sequence[np.ndarray]], list[SceneReading]]  # images, uint8 (H,W,3)


@dataclass(frozen=True)
class Witnesses:
    """A decision witness of each rule, and a reading witness with its features."""

    decide: Callable[[str], Decide]  # by the name of a rule; BlobexError if it is unknown
    read: Read
    features: Callable[[Tensor], Tensor]  # images (N,3,H,W) uint8 to features (N,D), as one batch


def load_witnesses(folder: Path, device: torch.device) -> Witnesses:
    """Load the witnesses in models/witness/<setup>; BlobexError if there are none."""
    witness = load_witness(folder)
    witness.decision.to(device)
    reading = witness.reading.to(device)

    def decide(images: Tensor, rule: str) -> Tensor:
        return witness.decide(images.to(device), rule)

    return Witnesses(
        decide=lambda rule: partial(decide, rule=rule),
        read=reader(reading, device),
        features=lambda images: reading.pooled_features(to_float(images.to(device))),
    )


def deferred_decisions(folder: Path, device: torch.device) -> tuple[str, Callable[[str], Decide]]:
    """Return the hash of the witnesses in a folder, and the decision witness of a rule, which is loaded when called."""
    try:
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    except OSError as error:
        raise BlobexError(f"there is no witness in {folder}: run `dvc repro witness@{folder.name}` first") from error
    return digest, lambda rule: load_witnesses(folder, device).decide(rule)


def reader(network: Callable[[Tensor], ParserOutput], device: torch.device) -> Read:
    """Return the reading of images by a parser on `device`."""

    def read(images: Sequence[np.ndarray]) -> list[SceneReading]:
        readings = []
        with torch.no_grad():
            for part in torch.stack([to_tensor(image) for image in images]).split(BATCH):
                readings += read_scenes(network(to_float(part.to(device))).to("cpu"), part)
        return readings

    return read
