"""From a model to a Decision: its answer made logits, its features found, and a probe that tells whether it will do."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blobex.core.errors import BlobexError
from blobex.decisions.decision import AS_IT_IS, Decision, Input, Kind, frozen_eval, prepare
from blobex.decisions.modules import batched, declared_size, penultimate, tensor_of
from blobex.networks.decision import DecisionModel

T = TypeVar("T")

GRID = 8  # cells a side over which a segmentation is averaged for inversion


@dataclass(frozen=True)
class Source:
    """A model before it is known what it scores. `answer` and `features` take pictures as the model reads them."""

    name: str
    answer: Callable[[Tensor], Any]
    features: Callable[[Tensor], Any] | None  # None: what is made of the logits
    modules: tuple[nn.Module, ...]
    input: Input = AS_IT_IS
    kind: Kind | None = None
    names: tuple[str, ...] = ()  # of the outputs, if there are as many


def source_of(model: Callable[[Tensor], Any], name: str | None = None) -> Source:
    """The source that a module or any other callable is; BlobexError if it is neither.

    A method `features` of its own gives the features; of torchvision's classifiers they are what the last linear layer
    reads. Modules are used where they are: pictures go to the device and number format of their parameters. An exported
    program gets pictures of the size, and batches of the sizes, for which it was exported.
    """
    if isinstance(model, type) or not callable(model):
        raise BlobexError(f"{name or model!r} is no model: give a module or a function, not a class or a value")
    name = name or str(getattr(model, "__qualname__", type(model).__name__))
    owner = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
    if not isinstance(owner, nn.Module):
        return Source(name, model, _own_features(model), ())
    features = _own_features(model) or _own_features(owner) or penultimate(owner)
    run = batched(owner, name) if model is owner else model
    names = owner.output_names if isinstance(owner, DecisionModel) else ()
    return Source(
        name,
        answer=lambda pictures: run(_brought(pictures, owner)),
        features=features and (lambda pictures: features(_brought(pictures, owner))),
        modules=(owner,),
        input=Input(*declared_size(owner)),
        kind="attributes" if names else None,
        names=names,
    )


def from_callable(
    model: Callable[[Tensor], Any],
    kind: Kind,
    outputs: Sequence[str],
    input: Input | None = None,
    name: str | None = None,
) -> Decision:
    """The decision of a module or any other callable, which maps pictures as `input` says to logits; not yet probed.

    Logits are a tensor, or stand under "out" or "logits" in what is returned; a segmentation's may have any size.
    """
    source = source_of(model, name)
    return _decision(dataclasses.replace(source, input=input or source.input), kind, tuple(outputs))


def decide(
    source: Source, kind: Kind | None, outputs: Sequence[str] | None, height: int, width: int, device: torch.device
) -> Decision:
    """The decision of a source that passed the probe (see `check`) with pictures of `height` x `width`.

    What is None is the source's: its kind, or else segmentation where the answer has four dimensions, classes where it
    scores several things and attributes where it scores one; its names, or else "0", "1", ...
    """
    kind = kind or source.kind or _guess(source, height, width, device)
    decision = _decision(source, kind, ())
    count = _probe(decision, height, width, device)
    known = source.names if len(source.names) == count else tuple(map(str, range(count)))
    return _named(dataclasses.replace(decision, outputs=tuple(outputs or known)), count)


def check(decision: Decision, height: int, width: int, device: torch.device) -> Decision:
    """The decision, if it will do for pictures of `height` x `width`; tried with two grey ones.

    BlobexError: it fails, has another number of outputs than names, gives other shapes than it should, numbers that are
    not finite, or no gradient to the picture, or changes its own buffers with every picture.
    """
    return _named(decision, _probe(decision, height, width, device))


def _decision(source: Source, kind: Kind, outputs: tuple[str, ...]) -> Decision:
    if kind not in get_args(Kind):
        raise BlobexError(f"unknown kind {kind!r} of decision: choose one of {', '.join(get_args(Kind))}")

    def logits(pictures: Tensor) -> Tensor:
        answer = tensor_of(source.answer(prepare(pictures, source.input)), source.name).to(pictures)
        if answer.ndim != (4 if kind == "segmentation" else 2) or len(answer) != len(pictures):
            raise BlobexError(
                f"the model {source.name} gives {tuple(answer.shape)} for {len(pictures)} pictures: "
                f"{kind} needs {'(N,A,h,w)' if kind == 'segmentation' else '(N,A)'}"
            )
        if kind == "segmentation" and answer.shape[2:] != pictures.shape[2:]:
            answer = F.interpolate(answer, pictures.shape[2:], mode="bilinear", align_corners=False)
        return answer

    def features(pictures: Tensor) -> Tensor:
        if source.features:
            own = tensor_of(source.features(prepare(pictures, source.input)), source.name)
            return own.to(pictures).flatten(1)
        if kind == "segmentation":  # label maps of every pixel would weigh edges only
            return F.adaptive_avg_pool2d(logits(pictures).softmax(1), GRID).flatten(1)
        return logits(pictures)

    return Decision(source.name, kind, outputs, logits, features, source.modules, source.input)


def _guess(source: Source, height: int, width: int, device: torch.device) -> Kind:
    """The kind, by the shape of the answer."""
    pictures = torch.zeros(2, 3, height, width, device=device)
    decision = _decision(source, "classes", ())
    with frozen_eval(decision), _unchanged(decision), torch.no_grad():
        answer = _tried(source.name, lambda: tensor_of(source.answer(prepare(pictures, source.input)), source.name))
    if answer.ndim == 4:
        return "segmentation"
    return "attributes" if answer.shape[1:] == (1,) else "classes"


def _probe(decision: Decision, height: int, width: int, device: torch.device) -> int:
    """The number of outputs; BlobexError as `check` says, names apart."""
    pictures = torch.zeros(2, 3, height, width, device=device, requires_grad=True)
    with frozen_eval(decision), _unchanged(decision), torch.enable_grad():
        logits = _sound(decision.name, "logits", decision.logits, pictures)
        features = _sound(decision.name, "features", decision.features, pictures)
    shape = (2, logits.shape[1], height, width)[: 4 if decision.kind == "segmentation" else 2]
    if logits.shape != shape or features.ndim != 2:
        raise BlobexError(
            f"the model {decision.name} gives logits {tuple(logits.shape)} and features {tuple(features.shape)} for 2 "
            f"pictures: {decision.kind} needs {'(N,A,H,W)' if len(shape) == 4 else '(N,A)'} and (N,D)"
        )
    if logits.shape[1] == 1 and decision.kind != "attributes":
        raise BlobexError(f"the model {decision.name} has one output: {decision.kind} needs two or more to choose from")
    return logits.shape[1]


@contextmanager
def _unchanged(decision: Decision) -> Iterator[None]:
    """The modules' buffers are afterwards what they were; BlobexError if they were not."""
    buffers = [(buffer, buffer.detach().clone()) for root in decision.modules for buffer in root.buffers()]
    changed = []
    try:
        yield
    finally:
        changed = [(buffer, before) for buffer, before in buffers if not torch.equal(buffer, before)]
        for buffer, before in changed:
            buffer.detach().copy_(before)
    if changed:
        raise BlobexError(f"the model {decision.name} changes with every picture: save or export it in eval mode")


def _sound(name: str, what: str, function: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """The function's answer, if it is finite and has a gradient to the pictures."""
    found = _tried(name, lambda: tensor_of(function(pictures), name))
    if found.ndim < 2 or len(found) != len(pictures) or not found.is_floating_point():
        raise BlobexError(
            f"the model {name} gives {what} {tuple(found.shape)} of {found.dtype} for {len(pictures)} pictures: "
            "give one row of floats a picture"
        )
    if not found.isfinite().all():
        raise BlobexError(f"the model {name} gives {what} that are not finite for a grey picture: check its weights")
    gradient = None
    if found.requires_grad:
        (gradient,) = _tried(name, lambda: torch.autograd.grad(found.sum(), pictures, allow_unused=True))
    if gradient is None:
        raise BlobexError(
            f"the {what} of the model {name} have no gradient to the picture: compute them without argmax, detach or "
            "no_grad"
        )
    return found.detach()


def _tried(name: str, function: Callable[[], T]) -> T:
    try:
        return function()
    except BlobexError:
        raise
    except (Exception, SystemExit) as error:  # whatever the model's own code raises
        words = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
        raise BlobexError(f"the model {name} fails on two grey pictures ({words}): check what it reads") from error


def _named(decision: Decision, count: int) -> Decision:
    if len(decision.outputs) != count:
        raise BlobexError(
            f"the model {decision.name} has {count} outputs but {len(decision.outputs)} names: name each output once"
        )
    return decision


def _own_features(model: object) -> Callable[[Tensor], Any] | None:
    """The model's method `features`; a part of it that has this name is none."""
    found = getattr(model, "features", None)
    return cast(Callable[[Tensor], Any], found) if callable(found) and not isinstance(found, nn.Module) else None


def _brought(pictures: Tensor, module: nn.Module) -> Tensor:
    home = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), None)
    return pictures if home is None else pictures.to(home.device, home.dtype)
