"""Images on their way through the explainer: as loaded, and as inverted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.device import Ranks
from blobex.inversion.inversion import Inversion


@dataclass(frozen=True)
class ImageShare:
    """Names of all images, and the images that this process explains."""

    names: Sequence[str]
    numbers: Tensor  # n: positions of this process's images in `names`
    queries: Tensor  # n,3,H,W in [-1,1]

    @classmethod
    def of(cls, names: Sequence[str], queries: Tensor, ranks: Ranks) -> ImageShare:
        """Return this process's share of N images with `queries` (N,3,H,W)."""
        numbers = torch.arange(ranks.rank, len(names), ranks.size)
        return cls(names, numbers, queries[numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def named(self, rows: Tensor) -> list[str]:
        """Return the names of this process's images `rows` (m,)."""
        return [self.names[number] for number in self.numbers[rows].tolist()]


@dataclass(frozen=True)
class InvertedImages:
    """A batch of N images with their inversions."""

    names: Sequence[str]
    queries: Tensor  # N,3,H,W in [-1,1]
    inversion: Inversion

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> InvertedImages:
        """Return the batch on another device."""
        return InvertedImages(self.names, self.queries.to(device), self.inversion.to(device))
