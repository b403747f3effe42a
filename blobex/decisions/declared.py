"""What a module says about itself: the size and scaling of its input, and the names of its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from torch import Tensor, nn
from torch.fx import GraphModule

from blobex.decisions.decision import Input, Resize
from blobex.decisions.onnx_file import OnnxNetwork
from blobex.networks.control import ControlModel
from blobex.networks.decision import DecisionModel


def declared_input(module: nn.Module) -> Input:
    """Return the input that a module was trained with or exported for; the default Input where it says nothing.

    Read are blobex's own models, exported programs, `pretrained_cfg` or `default_cfg` (timm's models) and the
    `image_size` of `config` (transformers' models).
    """
    if isinstance(module, DecisionModel | ControlModel):
        return Input(module.config["height"], module.config["width"])
    if shape := program_shape(module):
        height, width = shape[2:] if len(shape) == 4 else (None, None)
        return Input(height if isinstance(height, int) else None, width if isinstance(width, int) else None)
    module = unwrapped(module)
    trained = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if isinstance(trained, Mapping):
        return _trained_input(trained)
    size = _setting(module, "image_size")
    height, width = size if isinstance(size, tuple | list) and len(size) == 2 else (size, size)
    return Input(height, width) if type(height) is type(width) is int and height > 0 and width > 0 else Input()


def declared_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's outputs, of blobex's own models and by `id2label`; () if it has none."""
    if isinstance(module, DecisionModel | ControlModel):
        return module.output_names
    module = unwrapped(module)
    labels = _setting(module, "id2label") or getattr(module, "id2label", None)
    return ordered_names(labels) or () if isinstance(labels, Mapping) else ()


def ordered_names(labels: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Return the names of a mapping from 0, 1, ... in this order; None for any other mapping.

    >>> ordered_names({0: "free", 1: "blocked"}), ordered_names({"b": 1, "a": 0}), ordered_names({1: "free"})
    (('free', 'blocked'), None, None)
    """
    by_number = {str(key): str(value) for key, value in labels.items()}
    numbers = [str(number) for number in range(len(labels))]
    return tuple(by_number[number] for number in numbers) if set(by_number) == set(numbers) else None


def program_shape(module: nn.Module) -> tuple[Any, ...]:
    """Return the shape of an exported program's images, with symbols or None for free sizes; () for other modules."""
    if isinstance(module, OnnxNetwork):
        return module.shape
    if not isinstance(module, GraphModule):
        return ()
    inputs = [node.meta.get("val") for node in module.graph.nodes if node.op == "placeholder"]
    return tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else ()


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside DataParallel."""
    inner = getattr(module, "module", None)
    return inner if isinstance(module, nn.DataParallel) and isinstance(inner, nn.Module) else module


def _setting(module: nn.Module, key: str) -> Any:
    config = getattr(module, "config", None)
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _trained_input(trained: Mapping[str, Any]) -> Input:
    default = Input()
    height, width = (trained.get("input_size") or (None, None))[-2:]
    resize = trained.get("interpolation")
    return Input(
        height,
        width,
        mean=tuple(trained.get("mean") or default.mean),
        std=tuple(trained.get("std") or default.std),
        resize=cast(Resize, resize) if resize in get_args(Resize) else default.resize,
    )
