"""Properties of modules: input size, batch size of exported programs, logits in their output, features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from blobex.core.errors import BlobexError
from blobex.networks.decision import DecisionModel


def output_tensor(output: Any, name: str) -> Tensor:
    """Return the tensor in the output of the model `name`: the output itself, or its item "out" or "logits"."""
    if isinstance(output, Mapping):
        output = output.get("out", output.get("logits"))
    output = getattr(output, "logits", output)
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise BlobexError(f"the model {name} gives a {kind}: return a tensor, or one called out or logits")
    return output


def input_size(module: nn.Module) -> tuple[int | None, int | None]:
    """Return height and width of the images that a module was trained with or exported for; None if any will do."""
    if isinstance(module, DecisionModel):
        return module.config["height"], module.config["width"]
    shape = _program_shape(module)
    if len(shape) != 4:
        return None, None
    height, width = (size if isinstance(size, int) else None for size in shape[2:])
    return height, width


def batched(module: nn.Module, name: str) -> Callable[[Tensor], Any]:
    """Return a function that calls an exported program with batches of the sizes for which it was exported.

    Batches are split, and the last one is padded with copies of its last image, whose outputs are dropped. Other
    modules are returned unchanged.
    """
    shape = _program_shape(module)
    if not shape:
        return module
    least, most = _batch_limits(shape[0])

    def run(images: Tensor) -> Tensor:
        parts = images.split(most or max(1, len(images)))
        return torch.cat([output_tensor(module(_padded(part, least)), name)[: len(part)] for part in parts])

    return run


def penultimate(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a function of images to the input (N,D) of a torchvision model's last linear layer; else None."""
    if not type(module).__module__.startswith("torchvision.models."):
        return None
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    if not layers:
        return None

    def features(images: Tensor) -> Tensor:
        recorded: list[Tensor] = []
        handle = layers[-1].register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
        try:
            module(images)
        finally:
            handle.remove()
        return recorded[-1].flatten(1)

    return features


def _program_shape(module: nn.Module) -> tuple[Any, ...]:
    """Return the shape of an exported program's images, with symbols for free sizes; () for other modules."""
    if not isinstance(module, GraphModule):
        return ()
    inputs = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    return tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else ()


def _batch_limits(size: Any) -> tuple[int, int | None]:
    """Return the smallest and the largest batch size; None for no limit."""
    if isinstance(size, int):
        return size, size
    bounds = size.node.shape_env.bound_sympy(size.node.expr)
    most = int(bounds.upper) if bounds.upper.is_Integer else None  # torch's infinity is no integer
    return int(bounds.lower), most


def _padded(images: Tensor, least: int) -> Tensor:
    missing = max(0, least - len(images))
    return torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
