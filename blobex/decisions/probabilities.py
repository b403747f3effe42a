"""Models that end in a sigmoid or softmax: found by their values, and turned into models that give logits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.decisions.decision import Kind
from blobex.decisions.outputs import is_binary

Values = Literal["logits", "probabilities"]
KINDS = ("attributes", "classes", "segmentation")  # those that decide by logits
FACTORS = (30.0, 1000.0)  # of images far out of range, for which logits leave [0, 1]
LEAST, MOST = 2**-126, 1 - 2**-24  # probabilities whose logits float32 can hold
SPREAD = 1e-3  # least difference between values that are not constant
SUM = 1e-3  # distance from 1 of the sum of probabilities


def in_logits(
    name: str,
    compute: Callable[[Tensor], Tensor],
    kind: Kind,
    values: Values | None,
    images: Tensor,
    ask: bool = True,
) -> Callable[[Tensor], Tensor] | None:
    """Return a function that gives the logits of a model's probabilities; None if it gives logits already.

    Args:
        compute: The model's values (N,A) or (N,A,h,w) for images (N,3,H,W) in [-1,1].
        values: What the values are; None: probabilities if they lie in [0,1] even for images far out of range.
        images: Images to try.
        ask: Refuse values of attributes or of one yes or no, which are decided by a threshold, that lie in [0,1] for
            images and not beyond, so that both may be meant; else they are logits.

    Raises:
        BlobexError: The values are no probabilities, though they should be, or both may be meant.
    """
    if values == "logits" or kind not in KINDS:
        return None
    first = _tried(compute, images)
    if first is None or not first.numel():
        return None
    tried = [first, *(far for factor in FACTORS if (far := _tried(compute, factor * images)) is not None)]
    inside = [bool(((found >= 0) & (found <= 1)).all()) for found in tried]
    varied = [bool(found.amax() - found.amin() > SPREAD) for found in tried if found.numel()]
    if values == "probabilities" and not inside[0]:
        raise BlobexError(f"the model {name} gives values outside [0, 1], no probabilities: write `values: logits`")
    if values is None:
        threshold = kind == "attributes" or is_binary(first, kind)
        if ask and not all(inside) and inside[0] and varied[0] and threshold:
            raise BlobexError(
                f"the model {name} gives values from 0 to 1, which may be probabilities or logits: say so in a card, "
                "by the line `values: probabilities` or `values: logits`, or give a Decision with logits"
            )
        if not all(inside) or not any(varied):
            return None
        print(f"blobex: {name} gives probabilities: their logits are searched", file=sys.stderr)
    transform = log if kind != "attributes" and all(map(_sum_to_one, tried)) else logit
    return lambda images: transform(compute(images))


def log(probabilities: Tensor) -> Tensor:
    """Return logits whose softmax gives probabilities (N,A,...) that sum to 1.

    >>> log(torch.tensor([[0.2, 0.8]])).softmax(1)
    tensor([[0.2000, 0.8000]])
    """
    return probabilities.float().clamp(min=LEAST).log()


def logit(probabilities: Tensor) -> Tensor:
    """Return logits whose sigmoid gives probabilities; 0 and 1 become about -87 and 17.

    >>> logit(torch.tensor([0.2, 0.5])).sigmoid()
    tensor([0.2000, 0.5000])
    """
    chances = probabilities.float().clamp(LEAST, MOST)
    return chances.log() - (-chances).log1p()


def _tried(compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor | None:
    """Return the rows of finite values; None if the model fails, as it may on images out of range."""
    try:
        with torch.no_grad():
            found = compute(images).float()
    except Exception:  # the model's code may raise anything
        return None
    return found[found.reshape(len(found), -1).isfinite().all(1)]


def _sum_to_one(values: Tensor) -> bool:
    return values.ndim > 1 and values.shape[1] > 1 and bool(((values.sum(1) - 1).abs() < SUM).all())
