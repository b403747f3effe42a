"""Conversion of modules, exported programs and other callables to Decisions."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blobex.core.errors import BlobexError
from blobex.decisions.decision import Decision, Input, Kind, prepare
from blobex.decisions.declared import declared_input, declared_names, program_shape
from blobex.decisions.outputs import arranged, output_tensor
from blobex.networks.control import ControlModel
from blobex.networks.decision import DecisionModel


def batched(module: nn.Module, name: str) -> Callable[[Tensor], Any]:
    """Make an exported program split and pad batches to the sizes that it takes; return other modules unchanged."""
    shape = program_shape(module)
    if not shape:
        return module
    least, most = _batch_limits(shape[0])
    if (least, most) == (1, None):
        return module

    def run(images: Tensor) -> Tensor:
        outputs = []
        for part in images.split(most or max(1, len(images))):
            padded = torch.cat([part, part[-1:].expand(max(0, least - len(part)), -1, -1, -1)])
            outputs.append(output_tensor(module(padded), name)[: len(part)])
        return torch.cat(outputs)

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


def _batch_limits(size: Any) -> tuple[int, int | None]:
    """Return the smallest and the largest batch size; None for no limit."""
    if size is None or isinstance(size, int):
        return size or 1, size
    bounds = size.node.shape_env.bound_sympy(size.node.expr)
    return int(bounds.lower), int(bounds.upper) if bounds.upper.is_Integer else None  # torch's infinity is no integer


OWN_KINDS: Mapping[type, Kind] = {DecisionModel: "attributes", ControlModel: "regression"}
GRID = 8  # cells a side over which a segmentation is averaged for inversion


@dataclass(frozen=True)
class Source:
    """A model whose kind and outputs may still be unknown. Its functions take prepared images (see `prepare`)."""

    name: str
    output: Callable[[Tensor], Any]
    features: Callable[[Tensor], Any] | None  # None: derived from the logits
    modules: tuple[nn.Module, ...]
    input: Input = field(default_factory=Input)
    kind: Kind | None = None
    names: tuple[str, ...] = ()  # of the outputs; ignored if the model has another number of them
    notes: tuple[str, ...] = ()


def source_of(model: Callable[[Tensor], Any], name: str | None = None) -> Source:
    """Describe a module or any other callable.

    Features are those of its method `features`, if images are all that it needs, or the input of the last linear layer
    of torchvision's classifiers. Modules stay where they are: images are moved to the device and dtype of their
    parameters. An exported program gets images of the size, and batches of the sizes, for which it was exported; other
    modules get what they declare (see `declared`). Raises BlobexError if `model` is a class or cannot be called.
    """
    if isinstance(model, type) or not callable(model):
        raise BlobexError(f"{name or model!r} is no model: give a module or a function, not a class or a value")
    name = name or str(getattr(model, "__qualname__", type(model).__name__))
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    if not isinstance(owner, nn.Module):
        return Source(name, model, _method_features(model), ())
    features = _method_features(model) or _method_features(owner) or penultimate(owner)
    run = batched(owner, name) if model is owner else model
    declared = declared_input(owner)
    return Source(
        name,
        output=lambda images: run(_moved(images, owner)),
        features=features and (lambda images: features(_moved(images, owner))),
        modules=(owner,),
        input=declared,
        kind=OWN_KINDS.get(type(owner)),
        names=declared_names(owner),
    )


def from_callable(
    model: Callable[[Tensor], Any],
    kind: Kind,
    outputs: Sequence[str],
    input: Input | None = None,
    name: str | None = None,
) -> Decision:
    """Build the Decision of a module or any other callable, without probing it.

    The model maps images, prepared as `input` says, to logits: a tensor, or the item "out" or "logits" of its output,
    of any size for a segmentation. `outputs` are names, one per logit; `name` is that of the model in messages.
    """
    source = source_of(model, name)
    return decision_of(dataclasses.replace(source, input=input or source.input), kind, tuple(outputs))


def decision_of(source: Source, kind: Kind, outputs: tuple[str, ...]) -> Decision:
    """Build a Decision from its parts; BlobexError if the kind is unknown, or a call returns another shape."""
    if kind not in get_args(Kind):
        raise BlobexError(f"unknown kind {kind!r} of decision: choose one of {', '.join(get_args(Kind))}")

    def logits(images: Tensor) -> Tensor:
        output = output_tensor(source.output(prepare(images, source.input)), source.name).to(images)
        output = arranged(output, kind, len(images))
        if output.ndim != (4 if kind == "segmentation" else 2) or len(output) != len(images):
            raise BlobexError(
                f"the model {source.name} gives {tuple(output.shape)} for {len(images)} images: "
                f"{kind} needs {'(N,A,h,w)' if kind == 'segmentation' else '(N,A)'}"
            )
        if kind == "segmentation" and output.shape[2:] != images.shape[2:]:
            output = F.interpolate(output, images.shape[2:], mode="bilinear", align_corners=False)
        return output

    def features(images: Tensor) -> Tensor:
        if source.features:
            values = output_tensor(source.features(prepare(images, source.input)), source.name)
            return values.to(images).flatten(1)
        if kind == "segmentation":  # maps at full resolution would weigh little but edges
            return F.adaptive_avg_pool2d(logits(images).softmax(1), GRID).flatten(1)
        return logits(images)

    return Decision(source.name, kind, outputs, logits, features, source.modules, source.input, source.notes)


def _method_features(model: object) -> Callable[[Tensor], Any] | None:
    """Return the model's method `features` if images are all that it needs; a submodule of that name is none."""
    features = getattr(model, "features", None)
    if not callable(features) or isinstance(features, nn.Module):
        return None
    try:
        inspect.signature(features).bind("images")
    except (TypeError, ValueError):  # needs more or fewer arguments, or is not written in Python
        return None
    return cast(Callable[[Tensor], Any], features)


def _moved(images: Tensor, module: nn.Module) -> Tensor:
    parameter = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), None)
    return images if parameter is None else images.to(parameter.device, parameter.dtype)
