"""What can be read off a module: which pictures an exported program takes, what it returns, a classifier's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from blobex.core.errors import BlobexError
from blobex.networks.decision import DecisionModel


def tensor_of(answer: Any, name: str) -> Tensor:
    """The tensor in what the model called `name` returns: itself, or what stands there as "out" or "logits"."""
    if isinstance(answer, Mapping):
        answer = answer.get("out", answer.get("logits"))
    answer = getattr(answer, "logits", answer)
    if not isinstance(answer, Tensor):
        found = type(answer).__name__
        raise BlobexError(f"the model {name} gives a {found}: return a tensor, or one called out or logits")
    return answer


def declared_size(module: nn.Module) -> tuple[int | None, int | None]:
    """Height and width of the pictures that a module was trained with or exported for; None where any will do."""
    if isinstance(module, DecisionModel):
        return module.config["height"], module.config["width"]
    shape = _program_shape(module)
    if len(shape) != 4:
        return None, None
    height, width = (size if isinstance(size, int) else None for size in shape[2:])
    return height, width


def batched(module: nn.Module, name: str) -> Callable[[Tensor], Any]:
    """The module, called with batches of the size for which it was exported, if it was.

    Batches are cut, and the last one is filled up with copies of its last picture, whose answers are dropped.
    """
    shape = _program_shape(module)
    if not shape:
        return module
    least, most = _limits(shape[0])

    def run(pictures: Tensor) -> Tensor:
        parts = pictures.split(most or max(1, len(pictures)))
        return torch.cat([tensor_of(module(_filled(part, least)), name)[: len(part)] for part in parts])

    return run


def penultimate(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What the last linear layer of one of torchvision's models reads (N,D); None for all other modules."""
    if not type(module).__module__.startswith("torchvision.models."):
        return None
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not layers:
        return None

    def features(pictures: Tensor) -> Tensor:
        read: list[Tensor] = []
        handle = layers[-1].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            module(pictures)
        finally:
            handle.remove()
        return read[-1].flatten(1)

    return features


def _program_shape(module: nn.Module) -> tuple[Any, ...]:
    """The shape of an exported program's pictures, symbols where it is free; () for all other modules."""
    if not isinstance(module, GraphModule):
        return ()
    inputs = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    return tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else ()


def _limits(size: Any) -> tuple[int, int | None]:
    """The least and the most pictures a batch; None is no limit."""
    if isinstance(size, int):
        return size, size
    bounds = size.node.shape_env.bound_sympy(size.node.expr)
    most = int(bounds.upper) if bounds.upper.is_Integer else None  # torch's infinity is none
    return int(bounds.lower), most


def _filled(pictures: Tensor, least: int) -> Tensor:
    missing = max(0, least - len(pictures))
    return torch.cat([pictures, pictures[-1:].expand(missing, -1, -1, -1)])
