"""What is asked of the explainer, and what that means with the parameters of a setup."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from blobex.config.explain import Explain, ExplainVariant, Gate, SearchParams
from blobex.config.read import parse
from blobex.config.value_types import Shape
from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import resolve_keys
from blobex.counterfactual.questions import Box

Section = TypeVar("Section", Explain, ExplainVariant, SearchParams, Gate)
Blobs = Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Request:
    """What to explain and how to look for it. What is None stands in the parameters.

    `attributes` are outputs of the model: attributes that should become what they are not (if None those named stop, or
    all where there is no stop), classes that should win (the runner-up, if None), or classes that `region` (left, top,
    right, bottom, as shares of the picture) should take instead of `replaced`, or of what is commonest there.

    `keys` are keys of the layout or position, size, shape, appearance, style; `blobs` are numbers, or one list of
    numbers per picture; `only` is where in the picture something may change: a box, a polygon, the file of a mask or an
    object's name (see `regions`). The background stays as it is where blobs or a place are named, unless it is asked
    for.
    """

    attributes: Sequence[str] | None = None
    region: Box | None = None
    replaced: str | None = None
    variant: str = "basic"
    keys: Sequence[str] | None = None
    blobs: Blobs | None = None
    only: str | None = None
    background: bool | None = None
    few: bool | None = None
    count: int | None = None
    compose: str | None = None
    gate: str | None = None
    steps: int | None = None
    lambda_prox: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class Plan:
    """A request with everything settled that the parameters settle."""

    attributes: tuple[str, ...] | None
    region: Box | None
    replaced: str | None
    blobs: Blobs | None
    only: str | None
    variant: ExplainVariant
    setup: SearchParams
    gate: Gate
    photo: bool


def plan(request: Request, explain: Explain, shape: Shape) -> Plan:
    """The request with the parameters of `explain` and of the setup `shape`; BlobexError names a value out of range."""
    named = request.blobs is not None or request.only is not None
    if request.blobs is not None and request.only is not None:
        raise BlobexError("blobs are named by number and by place: give one of them")
    variant = explain.variant(request.variant)
    changes = {
        "keys": None if request.keys is None else list(resolve_keys(request.keys)),
        "background": (False if named else None) if request.background is None else request.background,
        "few": request.few,
        "count": request.count,
    }
    rates = {name: getattr(request, name) for name in ("steps", "lambda_prox", "learning_rate")}
    whole = _changed(explain, {"compose": request.compose}, "explain")
    setup = explain.square if shape == "square" else explain.rect
    return Plan(
        None if request.attributes is None else tuple(request.attributes),
        request.region,
        request.replaced,
        variant.blobs if request.blobs is None and request.only is None else request.blobs,
        request.only,
        _changed(variant, changes, f"explain.{request.variant}"),
        _changed(setup, rates, f"explain.{shape}"),
        _changed(explain.gate, {"action": request.gate}, "explain.gate"),
        whole.compose == "photo",
    )


def _changed(section: Section, changes: dict[str, Any], name: str) -> Section:
    """A section of the parameters with the values that are not None, checked as if they stood in the file."""
    tree = dataclasses.asdict(section) | {key: value for key, value in changes.items() if value is not None}
    return parse(type(section), tree, name)
