"""How far a counterfactual is from what it starts at (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm


def change(layout: BlobLayout, start: BlobLayout) -> dict[str, Tensor]:
    """The mean absolute difference (P,) of each key.

    A mean over the key's numbers, changeable or not, as published: so the published weights keep their meaning for any
    number of blobs and channels, and do not depend on which blobs may change. Entry 0 of `sizes` is never read and does
    not count.

    >>> import torch
    >>> start = BlobLayout(*(torch.zeros(1, 2) for _ in KEYS))
    >>> {key: float(each) for key, each in change(start.replace({"xs": torch.ones(1, 2)}), start).items() if each}
    {'xs': 1.0}
    """
    differences = {key: (value - getattr(start, key)).abs() for key, value in layout.items()}
    differences["sizes"] = differences["sizes"][:, 1:]
    return {key: difference.flatten(1).mean(1) for key, difference in differences.items()}


def price_vector(form: VectorForm, lambda_key: Mapping[Any, float]) -> Tensor:
    """(D,): what each number of a layout's vector costs per unit of change.

    The sum over a vector of price times absolute change is the sum over keys of lambda_key * `change`. BlobexError if a
    key has no weight.
    """
    missing = [key for key in KEYS if key not in lambda_key]
    if missing:
        raise BlobexError(f"lambda_key has no weight for {missing[0]}: add one")
    return form.mean_weights(lambda_key)
