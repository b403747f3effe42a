"""A model to explain: what it scores, and how pictures are brought to it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from blobex.core.errors import BlobexError

Kind = Literal["attributes", "classes", "segmentation"]
Resize = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Decision:
    """A model of one setup's pictures; what it reads beside them is its own business.

    `logits` maps pictures (N,3,H,W), float32 in [-1,1], to float32: (N,A) for attributes (each one is true or false by
    itself) and for classes (one of them is true), and (N,A,H,W) for segmentation, at the picture's size. `features`
    maps them to (N,D) float32, which is what inversion compares. Both are differentiable and answer on the pictures'
    device.
    """

    name: str
    kind: Kind
    outputs: tuple[str, ...]  # A names
    logits: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...] = ()  # the networks inside, as far as they are known
    input: Input | None = None  # what the model reads, if it was not given as a Decision


@dataclass(frozen=True)
class Input:
    """What a model reads: pictures of `height` x `width`, each colour c in 0..1 as (c - mean) / std.

    With one size alone the other follows in proportion; with neither, pictures stay as large as they are. The default
    is [-1,1] as it is. BlobexError: sizes below 1, other than three colours, a std that is not above 0.
    """

    height: int | None = None
    width: int | None = None
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resize: Resize = "bilinear"

    def __post_init__(self) -> None:
        if min(size for size in (self.height, self.width, 1) if size is not None) < 1:
            raise BlobexError(f"the input size {self.height} x {self.width} is no size: use whole numbers from 1")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise BlobexError(f"mean {self.mean} and std {self.std} must hold three numbers: red, green, blue")
        if not all(value > 0 for value in self.std):
            raise BlobexError(f"std {self.std} must be above 0: it divides the colours")
        if self.resize not in get_args(Resize):
            raise BlobexError(f"unknown resize {self.resize!r}: choose {' or '.join(get_args(Resize))}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The size to which pictures of `height` x `width` are brought."""
        if self.height is None and self.width is None:
            return height, width
        return (
            self.height or max(1, round(height * (self.width or 0) / width)),
            self.width or max(1, round(width * (self.height or 0) / height)),
        )


AS_IT_IS = Input()


def prepare(pictures: Tensor, declared: Input) -> Tensor:
    """Pictures (N,3,H,W) in [-1,1] as the model reads them: resized with antialias, then normalised; differentiable."""
    size = declared.size(*pictures.shape[2:])
    if size != tuple(pictures.shape[2:]):
        pictures = F.interpolate(pictures, size, mode=declared.resize, align_corners=False, antialias=True)
    mean, std = (pictures.new_tensor(values)[:, None, None] for values in (declared.mean, declared.std))
    return (pictures - (2 * mean - 1)) / (2 * std)  # ((pictures + 1) / 2 - mean) / std


@contextmanager
def frozen_eval(decision: Decision) -> Iterator[Decision]:
    """The decision with all its modules in eval mode and no parameter asking for a gradient.

    Every module's `training` and every parameter's `requires_grad` is afterwards what it was, also after an error. The
    flags are set one by one: a module's own `train` could do more than that, and an exported program has none.
    """
    modules = [module for root in decision.modules for module in root.modules() if hasattr(module, "training")]
    parameters = [parameter for root in decision.modules for parameter in root.parameters()]
    modes = [module.training for module in modules]
    wishes = [parameter.requires_grad for parameter in parameters]
    try:
        for module in modules:
            module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield decision
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter, wish in zip(parameters, wishes, strict=True):
            parameter.requires_grad_(wish)


def output_index(decision: Decision, name: str | int) -> int:
    """The number of the output of this name or number; BlobexError if there is none, or several of that name."""
    found = [number for number, output in enumerate(decision.outputs) if output == str(name)]
    if len(found) > 1:
        raise BlobexError(f"{decision.name} has {len(found)} outputs {name!r}: give a number, {_listed(found)}")
    if found:
        return found[0]
    if str(name).isdecimal() and int(name) < len(decision.outputs):
        return int(name)
    raise BlobexError(f"{decision.name} has no output {name!r}: choose from {_listed(decision.outputs)}")


def _listed(names: Sequence[object]) -> str:
    return textwrap.shorten(", ".join(map(str, names)), 200, placeholder=" ...")
