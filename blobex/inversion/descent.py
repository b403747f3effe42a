"""What inversion and counterfactual search share: Adam over the keys of a layout, and each picture's best iterate.

Adam (Kingma & Ba, ICLR 2015) treats every number on its own, so the pictures of a batch do not influence each other as
long as their losses are summed and not averaged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from blobex.layout.layout import BlobLayout, concatenate

Record = TypeVar("Record")


def adam(free: Mapping[str, Tensor], learning_rate: float, size_lr_multiplier: float) -> torch.optim.Adam:
    """Adam over one leaf tensor per key; `sizes` learns `size_lr_multiplier` times as fast as the rest."""
    rates = {key: learning_rate * (size_lr_multiplier if key == "sizes" else 1.0) for key in free}
    return torch.optim.Adam([{"params": [tensor], "lr": rates[key]} for key, tensor in free.items()])


def descend(optimiser: torch.optim.Adam, losses: Tensor) -> None:
    """One step down the losses (N,) of N independent pictures; no other tensor receives a gradient."""
    leaves = [leaf for group in optimiser.param_groups for leaf in group["params"]]
    gradients = torch.autograd.grad(losses.sum(), leaves, materialize_grads=True)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        leaf.grad = gradient
    optimiser.step()


def finite(*tensors: Tensor) -> Tensor:
    """Bool (N,): where every number of each tensor (N,...) is finite."""
    return torch.stack([tensor.isfinite().reshape(len(tensor), -1).all(1) for tensor in tensors]).all(0)


def keep_better(better: Tensor, new: Mapping[str, Tensor], best: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`new` where `better` (N,), `best` elsewhere: everything about one picture stems from the same iterate."""
    return {
        name: torch.where(better.view(-1, *[1] * (tensor.ndim - 1)), tensor, best[name]) for name, tensor in new.items()
    }


def join(parts: Sequence[Record]) -> Record:
    """One record from the records of several batches, whose fields are tensors (N,...) and layouts."""
    first = parts[0]
    if not dataclasses.is_dataclass(first) or isinstance(first, type):
        raise TypeError("only dataclass instances can be joined")
    fields: dict[str, Tensor | BlobLayout] = {}
    for field in dataclasses.fields(first):
        values = [getattr(part, field.name) for part in parts]
        fields[field.name] = concatenate(values) if isinstance(values[0], BlobLayout) else torch.cat(values)
    return type(first)(**fields)
