"""What a counterfactual search minimises: flip loss + lambda_prox * proximity (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from blobex.errors import BlobexError
from blobex.layout.layout import BlobLayout


def flip_loss(logits: Tensor, attribute: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy (P,) of one attribute per problem with its target class; the other attributes are free.

    `logits` (P,A), `attribute` (P,) indices, `target` (P,) bool. Taken on logits: on probabilities it is infinite or
    NaN where the model is sure.
    """
    chosen = logits.gather(1, attribute[:, None])[:, 0]
    return F.binary_cross_entropy_with_logits(chosen, target.to(chosen.dtype), reduction="none")


def target_logit(logits: Tensor, attribute: Tensor, target: Tensor) -> Tensor:
    """(P,): how far each problem's attribute is on the target's side; above 0 the decision is flipped."""
    chosen = logits.gather(1, attribute[:, None])[:, 0]
    return torch.where(target, chosen, -chosen)


def change(layout: BlobLayout, start: BlobLayout) -> dict[str, Tensor]:
    """The mean absolute difference (P,) of each key.

    A mean over the key's numbers, changeable or not, as published: so the published weights keep their meaning for any
    number of blobs and channels, and do not depend on which blobs may change. Entry 0 of `sizes` is never read and does
    not count.
    """
    differences = {key: (value - getattr(start, key)).abs() for key, value in layout.items()}
    differences["sizes"] = differences["sizes"][:, 1:]
    return {key: difference.flatten(1).mean(1) for key, difference in differences.items()}


def proximity(layout: BlobLayout, start: BlobLayout, lambda_key: Mapping[Any, float], keys: Sequence[str]) -> Tensor:
    """The distance (P,) between layouts: the sum over `keys` of lambda_key * change; BlobexError if a weight lacks."""
    missing = [key for key in keys if key not in lambda_key]
    if missing:
        raise BlobexError(f"lambda_key has no weight for {missing[0]}: add one, or leave {missing[0]} unchanged")
    changes = change(layout, start)
    return torch.stack([lambda_key[key] * changes[key] for key in keys]).sum(0)
