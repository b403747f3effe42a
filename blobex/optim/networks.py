"""The networks as inversion and counterfactual search see them: callables, each picture treated by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from blobex.layout.blobs import BlobLayout

Render = Callable[[BlobLayout], Tensor]  # deterministic; (N,3,H,W), about [-1,1]
Scores = Callable[[BlobLayout], Tensor]  # (N,K+1,H,W), background first: how much each counts at each pixel
Encode = Callable[[Tensor], BlobLayout]
Decide = Callable[[Tensor], Tensor]  # (N,3,H,W) to outputs (N,A) or (N,A,H,W)
Features = Callable[[Tensor], Tensor]  # (N,3,H,W) to (N,D)


class Perceptual(Protocol):
    """A perceptual distance whose one side can be prepared once."""

    def embed(self, images: Tensor, /) -> list[Tensor]:
        """What the distance compares, each (N,...)."""

    def distance_to(self, embedded: Sequence[Tensor], images: Tensor, /) -> Tensor:
        """Distances (N,) between the embedded pictures and `images` (N,3,H,W)."""


@dataclass(frozen=True)
class Networks:
    """All of them in one precision. `decide` and `features` are of the model to explain."""

    render: Render
    scores: Scores
    encode: Encode
    decide: Decide
    features: Features
    perceptual: Perceptual
