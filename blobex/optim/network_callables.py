"""The networks as inversion and counterfactual search call them; each treats the rows of a batch independently."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from blobex.layout.blobs import BlobLayout

Render = Callable[[BlobLayout], Tensor]  # to images (N,3,H,W), about [-1,1]; deterministic
Scores = Callable[[BlobLayout], Tensor]  # to score maps (N,K+1,H,W), background first: weight of each blob per pixel
Draw = Callable[[BlobLayout], tuple[Tensor, Tensor]]  # to images and score maps, for less than the price of both
Encode = Callable[[Tensor], BlobLayout]  # from images (N,3,H,W) in [-1,1]
Decide = Callable[[Tensor], Tensor]  # from images (N,3,H,W) to outputs (N,A) or (N,A,H,W)
Features = Callable[[Tensor], Tensor]  # from images (N,3,H,W) to (N,D)
Excess = Callable[[BlobLayout], Tensor]  # (N,K+1): unusualness of the appearances, background first; 0: usual
Segments = Callable[[Tensor], Tensor]  # from images (N,3,H,W) to bool (N,K+1,H,W): pixels of the segment of each blob
Nameable = Callable[[Tensor, Tensor], Tensor]  # from images before and after (N,3,H,W) to bool (N,)


class Perceptual(Protocol):
    """Perceptual distance whose reference images are embedded once."""

    def embed(self, images: Tensor, /) -> list[Tensor]:
        """Return the features (N,...) that are compared, one tensor per layer."""

    def distance_to(self, embedded: Sequence[Tensor], images: Tensor, /) -> Tensor:
        """Return the distances (N,) between embedded images and `images` (N,3,H,W)."""


@dataclass(frozen=True)
class Networks:
    """All networks in one precision. `decide` and `features` belong to the model to explain."""

    render: Render
    scores: Scores
    encode: Encode
    decide: Decide
    features: Features
    perceptual: Perceptual
    together: Draw | None = None  # `render` and `scores` in one; None: they are called
    excess: Excess | None = None  # None: nothing is known about usual appearances
    nameable: Nameable | None = None  # whether a parser sees a difference; None: there is no parser
    segments: Segments | None = None  # None: blobs do not stand for segments

    def draw(self, layout: BlobLayout) -> tuple[Tensor, Tensor]:
        """Return images and score maps of layouts."""
        return (self.render(layout), self.scores(layout)) if self.together is None else self.together(layout)


def watched(networks: Networks, watch: Callable[[BlobLayout, Tensor], None]) -> Networks:
    """Return networks that call `watch` with each rendered layout and its images (N,3,H,W); an error ends a search."""

    def render(layout: BlobLayout) -> Tensor:
        images = networks.render(layout)
        watch(layout, images)
        return images

    def draw(layout: BlobLayout) -> tuple[Tensor, Tensor]:
        images, scores = networks.draw(layout)
        watch(layout, images)
        return images, scores

    return dataclasses.replace(networks, render=render, together=draw)


@dataclass(frozen=True)
class NetworkPair:
    """The same networks twice: `quick`, in the fastest precision, to optimise; `exact`, in float32, to evaluate."""

    quick: Networks
    exact: Networks
