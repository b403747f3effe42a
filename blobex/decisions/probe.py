"""Trial of a model with two grey images: its kind, its number of outputs, and whether it can be explained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError
from blobex.decisions.checks import attempt, check_answers
from blobex.decisions.decision import Decision, Kind, frozen_eval, prepare
from blobex.decisions.outputs import choice, is_binary, output_tensor
from blobex.decisions.probabilities import Values, in_logits
from blobex.decisions.probe_images import probe_images
from blobex.decisions.source import Source, decision_of

USUAL_SIZES = (224, 256, 384, 299, 512, 128, 96, 64, 32, 28)  # of square images
T = TypeVar("T")


def decide(
    source: Source,
    kind: Kind | None,
    outputs: Sequence[str] | None,
    size: ImageSize,
    device: torch.device,
    values: Values | None = None,
) -> Decision:
    """Build the Decision of a model and check it as `check` does.

    Without a `kind` it is the source's, or segmentation if the output has four dimensions, classes if it has several
    values, attributes if it has one, unless `outputs` are two names. Without `outputs` the names are the source's, or
    "0", "1", ...; those of one output of classes (see `outputs.arranged`) are "no" and "yes", or "not X" and "X" if X
    is its only name. A method `features` that cannot be used is left out. Notes tell what was chosen. `values` are
    those of `in_logits`.
    """
    output, note = _trial(source, size, device)
    kind = kind or source.kind or _guess(output, outputs)
    source = _with_usable_features(source, kind, size, device)
    source = dataclasses.replace(source, notes=(*source.notes, note) if note else source.notes)
    decision = decision_of(source, kind, ())
    count = _probe(decision, size, device)
    source = dataclasses.replace(source, output=_output_in_logits(decision, source, kind, values, size, device))
    decision = decision_of(source, kind, ())
    _check_answers(decision, size, device)
    names = tuple(outputs or (source.names if len(source.names) == count else ()))
    if is_binary(output, kind) and len(names) < 2:
        names = (f"not {names[0]}", names[0]) if names else ("no", "yes")
    names = names or tuple(map(str, range(count)))
    return _check_names(dataclasses.replace(decision, outputs=names), count)


def _output_in_logits(
    decision: Decision, source: Source, kind: Kind, values: Values | None, size: ImageSize, device: torch.device
) -> Callable[[Tensor], Any]:
    """Return the source's output, or its logits where it gives probabilities."""

    def compute(images: Tensor) -> Tensor:
        return output_tensor(source.output(images), source.name)

    with frozen_eval(decision), _unchanged(decision):
        images = prepare(probe_images(size, device), source.input)
        return in_logits(source.name, compute, kind, values, images) or source.output


def check(decision: Decision, size: ImageSize, device: torch.device) -> Decision:
    """Return the Decision if it can be explained, after a trial with two grey images.

    Probabilities are turned into logits (`in_logits`); what may be either are logits, as a Decision promises.

    Raises BlobexError if the model fails, if outputs and names differ in number, if outputs have wrong shapes, are not
    finite or have no gradient to the images, if buffers change with every image, or as `check_answers`.
    """
    count = _probe(decision, size, device)
    with frozen_eval(decision), _unchanged(decision):
        images = probe_images(size, device)
        converted = in_logits(decision.name, decision.logits, decision.kind, None, images, ask=False)
    if converted:
        decision = dataclasses.replace(decision, logits=converted)
    _check_answers(decision, size, device)
    return _check_names(decision, count)


def _check_answers(decision: Decision, size: ImageSize, device: torch.device) -> None:
    with frozen_eval(decision), _unchanged(decision):
        check_answers(decision, size, device)


def _trial(source: Source, size: ImageSize, device: torch.device) -> tuple[Tensor, str]:
    """Return the raw output for two grey images, and the note on its choice; BlobexError if the model fails."""
    decision = decision_of(source, "classes", ())

    def run(height: int, width: int) -> Any:
        images = torch.zeros(2, 3, height, width, device=device)
        with frozen_eval(decision), _unchanged(decision), torch.no_grad():
            return source.output(prepare(images, source.input))

    try:
        output = _try(source.name, lambda: run(size.height, size.width))
    except BlobexError as error:
        fitting = _fitting_size(source, device)
        if fitting is None:
            raise
        lines = f"`height: {fitting}` and `width: {fitting}`"
        raise BlobexError(f"{error}; it takes {fitting} x {fitting}: write {lines} into its card") from error
    return output_tensor(output, source.name), choice(output, source.name)


def _fitting_size(source: Source, device: torch.device) -> int | None:
    """Return the first usual size of square images that a model takes; None if it takes none."""
    for size in USUAL_SIZES:
        sized = dataclasses.replace(source.input, height=size, width=size)
        decision = decision_of(source, "classes", ())
        images = prepare(torch.zeros(2, 3, size, size, device=device), sized)
        with suppress(Exception, SystemExit), frozen_eval(decision), _unchanged(decision), torch.no_grad():
            output_tensor(source.output(images), source.name)
            return size
    return None


def _guess(output: Tensor, outputs: Sequence[str] | None) -> Kind:
    """Guess the kind from the shape of the output and the number of names."""
    if output.ndim == 4:
        return "segmentation"
    return "attributes" if is_binary(output, "classes") and len(outputs or ()) != 2 else "classes"


def _with_usable_features(source: Source, kind: Kind, size: ImageSize, device: torch.device) -> Source:
    """Return the source without its features, and with a note, if they fail: a method of that name may be another."""
    if source.features is None:
        return source
    decision = decision_of(source, kind, ())
    images = torch.zeros(2, 3, size.height, size.width, device=device, requires_grad=True)
    try:
        with frozen_eval(decision), _unchanged(decision), torch.enable_grad():
            _checked(source.name, "features", decision.features, images)
    except BlobexError as error:
        note = f"the outputs of {source.name} are compared instead of its features: {error}"
        return dataclasses.replace(source, features=None, notes=(*source.notes, note))
    return source


def _probe(decision: Decision, size: ImageSize, device: torch.device) -> int:
    """Return the number of outputs; BlobexError as `check`, names apart."""
    images = torch.zeros(2, 3, size.height, size.width, device=device, requires_grad=True)
    with frozen_eval(decision), _unchanged(decision), torch.enable_grad():
        logits = _checked(decision.name, "logits", decision.logits, images)
        features = _checked(decision.name, "features", decision.features, images)
    shape = (2, logits.shape[1], size.height, size.width)[: 4 if decision.kind == "segmentation" else 2]
    if logits.shape != shape or features.ndim != 2:
        raise BlobexError(
            f"the model {decision.name} gives logits {tuple(logits.shape)} and features {tuple(features.shape)} for 2 "
            f"images: {decision.kind} needs {'(N,A,H,W)' if len(shape) == 4 else '(N,A)'} and (N,D)"
        )
    return logits.shape[1]


@contextmanager
def _unchanged(decision: Decision) -> Iterator[None]:
    """Restore the modules' buffers, and raise a BlobexError if they changed."""
    buffers = [(buffer, buffer.detach().clone()) for root in decision.modules for buffer in root.buffers()]
    changed = []
    try:
        yield
    finally:
        changed = [(buffer, before) for buffer, before in buffers if not torch.equal(buffer, before)]
        for buffer, before in changed:
            buffer.detach().copy_(before)
    if changed:
        raise BlobexError(f"the model {decision.name} changes with every image: save or export it in eval mode")


def _checked(name: str, what: str, function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Return the function's values if they are finite and have a gradient to the images."""
    values = _try(name, lambda: output_tensor(function(images), name))
    if values.ndim < 2 or len(values) != len(images) or not values.is_floating_point():
        raise BlobexError(
            f"the model {name} gives {what} {tuple(values.shape)} of {values.dtype} for {len(images)} images: "
            "give one row of floats an image"
        )
    if not values.isfinite().all():
        raise BlobexError(f"the model {name} gives {what} that are not finite for a grey image: check its weights")
    gradient = None
    if values.requires_grad:
        (gradient,) = _try(name, lambda: torch.autograd.grad(values.sum(), images, allow_unused=True))
    if gradient is None:
        raise BlobexError(
            f"the {what} of the model {name} have no gradient to the image: compute them without argmax, detach or "
            "no_grad"
        )
    return values.detach()


def _try(name: str, function: Callable[[], T]) -> T:
    return attempt(name, "two grey images", function)


def _check_names(decision: Decision, count: int) -> Decision:
    if len(decision.outputs) != count:
        raise BlobexError(
            f"the model {decision.name} has {count} outputs but {len(decision.outputs)} names: name each output once"
        )
    return decision
