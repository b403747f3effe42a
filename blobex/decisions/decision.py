"""Record of a model to explain, and preparation of its input."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from blobex.core.errors import BlobexError

Kind = Literal["attributes", "classes", "segmentation", "regression"]
Resize = Literal["bilinear", "bicubic"]
Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class Decision:
    """A model to explain, for images of one setup.

    `logits` and `features` are differentiable and map images (N,3,H,W) float32 in [-1,1] to float32 on the same device.
    """

    name: str
    kind: Kind
    outputs: tuple[str, ...]  # names of the A outputs
    # (N,A) for attributes, each true or false, classes, one of them true, and regression, each a number of any unit;
    # (N,A,H,W) for segmentation
    logits: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor]  # (N,D), compared by the inversion
    modules: tuple[nn.Module, ...] = ()  # the networks inside, if known
    input: Input | None = None  # None if the model was given as a Decision
    notes: tuple[str, ...] = ()  # sentences about what was chosen for the user, such as one of several outputs


@dataclass(frozen=True)
class Input:
    """Input of a model: images of `height` x `width` with colours (c - mean) / std, where c is 0 to 1.

    A single size sets the other in proportion; without sizes images keep theirs. The default is [-1,1], unchanged.
    Mean and std are in the order of the channels. Raises BlobexError if a size is below 1, mean or std have not three
    numbers, a std is not above 0, or the way to resize or the channels are unknown.
    """

    height: int | None = None
    width: int | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resize: Resize = "bilinear"
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        if min(size for size in (self.height, self.width, 1) if size is not None) < 1:
            raise BlobexError(f"the input size {self.height} x {self.width} is no size: use whole numbers from 1")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise BlobexError(f"mean {self.mean} and std {self.std} must hold three numbers, one per channel")
        if not all(value > 0 for value in self.std):
            raise BlobexError(f"std {self.std} must be above 0: it divides the colours")
        if self.resize not in get_args(Resize):
            raise BlobexError(f"unknown resize {self.resize!r}: choose {' or '.join(get_args(Resize))}")
        if self.channels not in get_args(Channels):
            raise BlobexError(f"unknown channels {self.channels!r}: choose {' or '.join(get_args(Channels))}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size to which images of `height` x `width` are resized."""
        if self.height is None and self.width is None:
            return height, width
        return (
            self.height or max(1, round(height * (self.width or 0) / width)),
            self.width or max(1, round(width * (self.height or 0) / height)),
        )


def prepare(images: Tensor, model_input: Input) -> Tensor:
    """Resize, with antialiasing, reorder and normalise images (N,3,H,W) in [-1,1] for a model; differentiable."""
    size = model_input.size(*images.shape[2:])
    if size != tuple(images.shape[2:]):
        images = F.interpolate(images, size, mode=model_input.resize, align_corners=False, antialias=True)
    if model_input.channels == "bgr":
        images = images.flip(1)
    mean, std = (images.new_tensor(values)[:, None, None] for values in (model_input.mean, model_input.std))
    return (images - (2 * mean - 1)) / (2 * std)  # ((images + 1) / 2 - mean) / std


@contextmanager
def frozen_eval(decision: Decision) -> Iterator[Decision]:
    """Set all modules to eval mode and `requires_grad` of all parameters to False, and restore both at the end.

    The flags are set one by one: a module's own `train` may do more, and an exported program has none.
    """
    modules = [module for root in decision.modules for module in root.modules() if hasattr(module, "training")]
    parameters = [parameter for root in decision.modules for parameter in root.parameters()]
    modes = [module.training for module in modules]
    grads = [parameter.requires_grad for parameter in parameters]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield decision
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.requires_grad_(grad)


def output_index(decision: Decision, name: str | int) -> int:
    """Return the index of an output, given by name or index; BlobexError if none or several have this name."""
    indices = [index for index, output in enumerate(decision.outputs) if output == str(name)]
    if len(indices) > 1:
        raise BlobexError(f"{decision.name} has {len(indices)} outputs {name!r}: give a number, {_listed(indices)}")
    if indices:
        return indices[0]
    if str(name).isdecimal() and int(name) < len(decision.outputs):
        return int(name)
    raise BlobexError(f"{decision.name} has no output {name!r}: choose from {_listed(decision.outputs)}")


def output_indices(decision: Decision, names: Sequence[str | int] | None) -> list[int]:
    """Return the indices of the named outputs, each once; by default all attributes, or the runner-up class ([])."""
    outputs, kind = decision.outputs, decision.kind
    if names is None and kind == "classes":
        return []
    if names is None and (kind == "attributes" or (kind == "regression" and len(outputs) == 1)):
        names = outputs
    if not names:
        raise BlobexError(f"no output to change: name one of {', '.join(outputs)}")
    return list(dict.fromkeys(output_index(decision, name) for name in names))


def _listed(names: Sequence[object]) -> str:
    return textwrap.shorten(", ".join(map(str, names)), 200, placeholder=" ...")
