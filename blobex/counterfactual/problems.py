"""What a search is given: for each of P problems where it starts, what it wants and what may change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.counterfactual.masks import check_mask_rows
from blobex.counterfactual.target import Target
from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm


@dataclass(frozen=True)
class Problems:
    """P problems, each about one picture and one question."""

    image_index: Tensor  # P: which picture
    target: Target  # P goals
    start: Tensor  # P,D: the picture's layout
    mask: Tensor  # P,D bool: what may change
    price: Tensor  # D: of a unit of change
    form: VectorForm

    @classmethod
    def of(
        cls, start: BlobLayout, image_index: Tensor, target: Target, masks: Mapping[str, Tensor], price: Tensor
    ) -> Problems:
        """The problems about N pictures; `masks` are those of `space.masks`. BlobexError: masks of other pictures."""
        form = VectorForm.of(start)
        vector = form.flatten(start.detach())
        check_mask_rows(masks, len(vector))
        mask = form.mask(masks).to(vector.device)
        rows = mask[image_index] if len(mask) > 1 else mask.expand(len(image_index), -1)
        return cls(image_index, target, vector[image_index], rows, price.to(vector.device), form)

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: Tensor) -> Problems:
        """Some of the problems."""
        some = {name: getattr(self, name)[index] for name in ("image_index", "target", "start", "mask")}
        return dataclasses.replace(self, **some)

    def repeated(self, count: int) -> Problems:
        """Each problem `count` times, one after the other."""
        return self[torch.arange(len(self), device=self.start.device).repeat_interleave(count)]

    @property
    def allowed(self) -> Tensor:
        """(P,K+1) bool: whether the background, and which blobs, may change."""
        return self.form.by_blob(self.mask.to(torch.float32)) > 0

    def distance(self, vector: Tensor) -> Tensor:
        """(P,): the price of the change from the start to vectors (P,D)."""
        return ((vector - self.start).abs() * self.price).sum(1)

    def reverted(self, vector: Tensor, blobs: Tensor) -> Tensor:
        """The vectors (P,D) with the entries of `blobs` (P,K+1) bool as they were at the start."""
        return torch.where(blobs[:, self.form.owners().to(blobs.device)], self.start, vector)
