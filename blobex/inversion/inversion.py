"""The record of inverted images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout


@dataclass(frozen=True)
class Inversion:
    """Inversions of N images: of each the best iterate, its rendering, and the terms of its loss."""

    layout: BlobLayout
    image: Tensor  # N,3,H,W: the reconstruction, rendered from `layout`
    loss: Tensor  # N: weighted sum of the next four
    perceptual: Tensor  # N: perceptual distance
    l2: Tensor  # N: mean squared error of pixels in [-1,1]
    decision: Tensor  # N: mean squared error of the decision model's features
    blobs: Tensor  # N: mean squared error to the layout at the start, summed over the keys
    encoder_loss: Tensor  # N: loss of the layout at the start
    step: Tensor  # N: iterations before the best iterate; 0: the layout at the start
    failed: Tensor  # N, bool: no iterate was finite; `layout` is that at the start

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, index: slice | Tensor) -> Inversion:
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Inversion:
        return self._map(lambda value: value.to(device))

    def replaced(self, index: Tensor, others: Inversion) -> Inversion:
        """Return a copy in which `others` take the place of the images `index` (n,)."""

        def put(name: str) -> Any:
            value, other = getattr(self, name), getattr(others, name)
            if isinstance(value, BlobLayout):
                return BlobLayout(**{key: old.index_copy(0, index, getattr(other, key)) for key, old in value.items()})
            return value.index_copy(0, index, other)

        return Inversion(**{field.name: put(field.name) for field in dataclasses.fields(self)})

    def _map(self, function: Callable[[Any], Any]) -> Inversion:
        return Inversion(**{field.name: function(getattr(self, field.name)) for field in dataclasses.fields(self)})
