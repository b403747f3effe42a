"""Batches of counterfactual search problems, and the distance from their start (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.core.errors import BlobexError
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.masks import check_mask_rows
from blobex.counterfactual.target import Target
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm


def change(layout: BlobLayout, start: BlobLayout) -> dict[str, Tensor]:
    """Compute the mean absolute difference (P,) of each key.

    As published, the mean is over all numbers of the key, changeable or not, so that the published weights keep their
    meaning for any number of blobs and channels. Entry 0 of `sizes` is never read and does not count.

    >>> start = BlobLayout(*(torch.zeros(1, 2) for _ in KEYS))
    >>> changes = change(start.replace({"xs": torch.ones(1, 2)}), start)
    >>> {key: float(value) for key, value in changes.items() if value}
    {'xs': 1.0}
    """
    differences = {key: (value - getattr(start, key)).abs() for key, value in layout.items()}
    differences["sizes"] = differences["sizes"][:, 1:]
    return {key: difference.flatten(1).mean(1) for key, difference in differences.items()}


def price_vector(form: VectorForm, lambda_key: Mapping[Any, float]) -> Tensor:
    """Return the price (D,) per unit of absolute change of each number of a layout vector.

    The sum of price times absolute change over a vector is the sum of lambda_key times `change` over the keys.
    """
    missing = [key for key in KEYS if key not in lambda_key]
    if missing:
        raise BlobexError(f"lambda_key has no weight for {missing[0]}: add one")
    return form.mean_weights(lambda_key)


@dataclass(frozen=True)
class Problems:
    """P problems about N query images: the target of each, and the entries of its layout that may change."""

    queries: Tensor  # N,3,H,W in [-1,1]
    layouts: Tensor  # N,D: the queries' inverted layouts as vectors
    image_index: Tensor  # P: the query of each problem
    target: Target  # P targets
    mask: Tensor  # P,D bool: entries that may change
    price: Tensor  # D: price per unit of absolute change
    form: VectorForm

    @classmethod
    def of(
        cls,
        queries: Tensor,
        layout: BlobLayout,
        image_index: Tensor,
        target: Target,
        masks: Mapping[str, Tensor],
        lambda_key: Mapping[Any, float],
    ) -> Problems:
        """Build the problems of N images with inverted layouts.

        Args:
            masks: Entries that may change, from `build_masks`: for all images, or one row per image.
            lambda_key: Price of the mean absolute change of each key; BlobexError if one is missing.
        """
        form = VectorForm.of(layout)
        price = price_vector(form, lambda_key)
        layouts = form.flatten(layout.detach())
        check_mask_rows(masks, len(layouts))
        mask = form.mask(masks).to(layouts.device)
        rows = mask[image_index] if len(mask) > 1 else mask.expand(len(image_index), -1)
        return cls(queries, layouts, image_index, target, rows, price.to(layouts.device), form)

    def __len__(self) -> int:
        return len(self.image_index)

    def __getitem__(self, index: Tensor) -> Problems:
        rows = {name: getattr(self, name)[index] for name in ("image_index", "target", "mask")}
        return dataclasses.replace(self, **rows)

    @cached_property
    def start(self) -> Tensor:
        """(P,D): the layout vector at which each problem starts."""
        return self.layouts[self.image_index]

    @property
    def changeable(self) -> Tensor:
        """(P,K+1) bool: whether the background, and which blobs, may change."""
        return self.form.by_blob(self.mask.to(torch.float32)) > 0

    def repeated(self, count: int) -> Problems:
        """Repeat each problem `count` times in succession."""
        return self[torch.arange(len(self), device=self.layouts.device).repeat_interleave(count)]

    def distance(self, vector: Tensor) -> Tensor:
        """Compute the price (P,) of the change from the start to layout vectors (P,D)."""
        return ((vector - self.start).abs() * self.price).sum(1)

    def restore(self, vector: Tensor, blobs: Tensor) -> Tensor:
        """Reset the entries of `blobs` (P,K+1) bool in layout vectors (P,D) to the start."""
        return torch.where(blobs[:, self.form.owners().to(blobs.device)], self.start, vector)


@dataclass(frozen=True)
class SearchContext:
    """Shared context of all steps of a search: composer, hyperparameters and batch size."""

    composer: Composer
    params: SearchParams
    batch_size: int
    rate_factor: int = 1  # a retry's learning rate is this many times the one of `params`
