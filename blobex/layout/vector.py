"""Layouts as one vector per image, for optimisers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.blobs import BACKGROUND_KEYS, KEYS, BlobLayout


@dataclass(frozen=True)
class VectorForm:
    """Shape of each key of a layout per image, in the order in which the vector (D,) holds them.

    >>> layout = BlobLayout(*(torch.zeros(2, 3, size) for size in (1, 1, 4, 1, 8, 8)))
    >>> form = VectorForm.of(layout)
    >>> form.lengths, tuple(form.flatten(layout).shape)
    ([3, 3, 12, 3, 24, 24], (2, 69))
    """

    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, layout: BlobLayout) -> VectorForm:
        return cls(tuple(tuple(tensor.shape[1:]) for _, tensor in layout.items()))

    @property
    def lengths(self) -> list[int]:
        """Number of entries of each key."""
        return [math.prod(shape) for shape in self.shapes]

    def flatten(self, layout: BlobLayout) -> Tensor:
        """Return vectors (N,D): the six tensors, one after the other."""
        return torch.cat([tensor.flatten(1) for _, tensor in layout.items()], dim=1)

    def unflatten(self, vector: Tensor) -> BlobLayout:
        """Return the layout of vectors (N,D)."""
        parts = zip(vector.split(self.lengths, dim=1), self.shapes, strict=True)
        return BlobLayout(*(part.unflatten(1, shape) for part, shape in parts))

    def spread(self, numbers: Mapping[str, float]) -> Tensor:
        """Return the number of each entry's key, (D,) float32; 0 for other keys and the unread size."""
        values = [float(numbers.get(key, 0.0)) for key in KEYS]
        vector = torch.cat([torch.full((n,), value) for n, value in zip(self.lengths, values, strict=True)])
        vector[sum(self.lengths[: KEYS.index("sizes")])] = 0.0
        return vector

    def rates(
        self, learning_rate: float, size_lr_multiplier: float, relative: Mapping[str, float] | None = None
    ) -> Tensor:
        """Return learning rates (D,), multiplied by `size_lr_multiplier` for sizes and by the factors in `relative`."""
        rates = {key: learning_rate * (relative or {}).get(key, 1.0) for key in KEYS}
        return self.spread(rates | {"sizes": rates["sizes"] * size_lr_multiplier})

    def mean_weights(self, numbers: Mapping[str, float]) -> Tensor:
        """Return weights (D,) with which a sum over entries is the sum over keys of number times the key's mean.

        The unread entry 0 of `sizes` is not counted.
        """
        counts = {key: length - (key == "sizes") for key, length in zip(KEYS, self.lengths, strict=True)}
        return self.spread({key: number / counts[key] for key, number in numbers.items()})

    def mask(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Return masks by key as vectors (1 or N, D) bool, False for other keys."""
        rows = max(len(mask) for mask in masks.values())
        parts = [
            masks[key].expand(rows, *shape).flatten(1) if key in masks else torch.zeros(rows, length, dtype=torch.bool)
            for key, shape, length in zip(KEYS, self.shapes, self.lengths, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def owners(self) -> Tensor:
        """Return the owner of each entry, (D,) long: 0 for the background, k+1 for blob k."""
        parts = []
        for key, shape in zip(KEYS, self.shapes, strict=True):
            first = 0 if key in BACKGROUND_KEYS else 1
            parts.append(torch.arange(first, first + shape[0]).repeat_interleave(math.prod(shape[1:])))
        return torch.cat(parts)

    def by_blob(self, vector: Tensor) -> Tensor:
        """Sum vectors (N,D) over the entries of the background and of each blob, (N,K+1)."""
        sums = []
        for key, tensor in self.unflatten(vector).items():
            total = tensor if tensor.ndim == 2 else tensor.flatten(2).sum(2)
            sums.append(total if key in BACKGROUND_KEYS else F.pad(total, (1, 0)))
        return sum(sums[1:], sums[0])  # in this order for any number of rows

    def changed(self, vector: Tensor, start: Tensor) -> Tensor:
        """Mark the background and the blobs that differ between two vectors (N,D), (N,K+1) bool."""
        return self.by_blob((vector != start).to(torch.float32)) > 0
