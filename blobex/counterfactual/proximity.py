"""Distance of a counterfactual layout from its start (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm


def change(layout: BlobLayout, start: BlobLayout) -> dict[str, Tensor]:
    """Compute the mean absolute difference (P,) of each key.

    As published, the mean is over all numbers of the key, changeable or not, so that the published weights keep their
    meaning for any number of blobs and channels. Entry 0 of `sizes` is never read and does not count.

    >>> import torch
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

    Raises:
        BlobexError: A key has no weight.
    """
    missing = [key for key in KEYS if key not in lambda_key]
    if missing:
        raise BlobexError(f"lambda_key has no weight for {missing[0]}: add one")
    return form.mean_weights(lambda_key)
