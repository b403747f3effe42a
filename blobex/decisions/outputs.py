"""Logits in what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Kind

NAMES = ("out", "logits")  # torchvision's segmentations, and transformers
EXPLANATION = "return a tensor, or one called out or logits"


def output_tensor(output: Any, name: str) -> Tensor:
    """Return the tensor in the output of the model `name`; BlobexError if there is none, or no way to choose."""
    return _chosen(output, name)[0]


def choice(output: Any, name: str) -> str:
    """Return a sentence about the choice of `output_tensor`; "" for a tensor, or one that is called out or logits."""
    return _chosen(output, name)[1]


def _chosen(output: Any, name: str) -> tuple[Tensor, str]:
    if isinstance(output, Tensor):
        return output, ""
    for key in NAMES:
        value = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        value = getattr(output, key, None) if value is None else value
        if isinstance(value, Tensor):
            return value, ""
    if isinstance(output, Mapping):
        tensors = {key: value for key, value in output.items() if isinstance(value, Tensor)}
        if len(tensors) != 1:
            keys = brief(", ".join(map(str, output)), 100) or "no items"
            raise BlobexError(f"the model {name} gives a {type(output).__name__} of {keys}: {EXPLANATION}")
        ((key, tensor),) = tensors.items()
        return tensor, f"of the outputs of {name}, {key} is explained: it is the only tensor"
    if isinstance(output, tuple | list):
        number = next((number for number, value in enumerate(output) if isinstance(value, Tensor)), None)
        if number is not None:
            place = "first" if number == 0 else f"first tensor, number {number},"
            return output[number], f"of the {len(output)} values that {name} gives, the {place} is explained"
    raise BlobexError(f"the model {name} gives a {type(output).__name__}: {EXPLANATION}")


def is_binary(output: Tensor, kind: Kind) -> bool:
    """Return whether a model of classes has one output (N,), (N,1), (N,h,w) or (N,1,h,w): no or yes."""
    axes = 4 if kind == "segmentation" else 2
    return kind in ("classes", "segmentation") and (output.ndim == axes - 1 or output.shape[1:2] == (1,))


def arranged(output: Tensor, kind: Kind, count: int) -> Tensor:
    """Return logits (N,A) or (N,A,h,w) of `count` images.

    A missing axis of one output is added, and that of one image, which `squeeze` removes with it. One output of a
    model of classes becomes two, the logit 0 of no and its own of yes: their softmax is its sigmoid. Other outputs are
    returned as they are.
    """
    if kind == "segmentation":
        if count == 1 and output.ndim == 2:
            output = output[None]
        if output.ndim == 3 and len(output) == count:
            output = output[:, None]
    elif output.ndim < 2 and (count == 1 or output.shape == (count,)):
        output = output.reshape(count, -1)
    if is_binary(output, kind):
        output = torch.cat([torch.zeros_like(output), output], 1)
    return output
