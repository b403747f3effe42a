"""Explanation requests, and the plan that a request becomes with the parameters of a setup."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from blobex.config.explain import Explain, ExplainVariant, Gate, SearchParams
from blobex.config.keys import resolve_keys
from blobex.config.read import parse
from blobex.config.value_types import Shape
from blobex.core.errors import BlobexError
from blobex.counterfactual.ranges import Range, asked_range

if TYPE_CHECKING:  # the command line checks a request before it imports torch
    from torch import Tensor

    from blobex.counterfactual.questions import Box

Section = TypeVar("Section", Explain, ExplainVariant, SearchParams, Gate)
Blobs = Sequence[int] | Sequence[Sequence[int]]
Compose = Literal["photo", "full"]


@dataclass(frozen=True)
class Request:
    """Request for explanations: outputs in question, what may change, and search options (None: as in params.yaml)."""

    attributes: Sequence[str] | None = None  # outputs of the model: attributes to invert, classes to reach, or numbers
    region: Box | None = None  # segmentation only: left, top, right, bottom in [0, 1]; None: the whole image
    replaced: str | None = None  # segmentation only: class to replace in the region; None: its most common class
    at_least: float | None = None  # regression only: least number that the outputs in question should reach
    at_most: float | None = None  # or the greatest
    between: tuple[float, float] | None = None  # or both
    variant: str = "basic"  # preset of params.yaml: basic, targeted or diverse
    keys: Sequence[str] | None = None  # keys of the layout, or position, size, shape, appearance, style
    blobs: Blobs | None = None  # blobs that may change: numbers for all images, or one list per image
    only: str | None = None  # region that may change: box, polygon, mask file or object name (see `region_mask`)
    background: bool | None = None  # whether the background may change; None with `blobs` or `only`: it may not
    few: bool | None = None  # change as few blobs as possible
    count: int | None = None  # counterfactuals per question
    compose: str | None = None  # photo: paste the change into the image; full: render the whole layout
    gate: str | None = None  # report, refine or skip images whose reconstruction is decided differently
    steps: int | None = None  # of the search
    lambda_prox: float | None = None  # weight of the proximity term
    learning_rate: float | None = None  # of all keys but sizes


@dataclass(frozen=True)
class Plan:
    """A checked request with all values taken from the parameters."""

    request: Request
    columns: tuple[int, ...]  # outputs in question; empty: the runner-up class of each image
    replaced: int | None  # number of the class to replace
    blobs: Blobs | None
    variant: ExplainVariant
    search: SearchParams
    gate: Gate
    compose: Compose

    @property
    def wanted(self) -> Range | None:
        """Range that outputs of a regression should reach."""
        return asked_range(self.request.at_least, self.request.at_most, self.request.between)

    @property
    def photo(self) -> bool:
        """True if changes are pasted into the image."""
        return self.compose == "photo"

    def for_images(self, numbers: Tensor) -> Plan:
        """Return the plan for a batch of the images, with their lists of blobs only."""
        if self.blobs is None or len(self.blobs) == 1 or not any(isinstance(item, Sequence) for item in self.blobs):
            return self
        return dataclasses.replace(self, blobs=[self.blobs[number] for number in numbers.tolist()])

    def settings(self) -> dict[str, Any]:
        """Return what identifies results of this plan, for settings.json."""
        attributes, wanted = self.request.attributes, self.wanted
        return ({} if wanted is None else {"range": [str(wanted.low), str(wanted.high)]}) | {
            "attributes": None if attributes is None else tuple(attributes),
            "region": self.request.region,
            "replaced": self.request.replaced,
            "blobs": self.blobs,
            "only": self.request.only,
            "variant": dataclasses.asdict(self.variant),
            "setup": dataclasses.asdict(self.search),
            "gate": dataclasses.asdict(self.gate),
            "photo": self.photo,
        }


@dataclass(frozen=True)
class Output:
    """Folder for the results, and what to write there besides images, layouts and table."""

    folder: str | Path
    gif: bool = False  # an animation from each query to its counterfactual
    published: bool = False  # metadata_<i>.pt in the format of the published scripts
    replace: bool = False  # remove all results from the folder first
    refresh: bool = False  # remove results of other settings, and continue those of the same


def make_plan(request: Request, columns: Sequence[int], replaced: int | None, explain: Explain, shape: Shape) -> Plan:
    """Complete a request with the section `explain` of the parameters; see `Plan` for columns and replaced.

    Raises:
        BlobexError: A value is unknown or out of range, or `blobs` and `only` are both given.
    """
    if request.blobs is not None and request.only is not None:
        raise BlobexError("both blobs and only are given: give one of them")
    restricted = request.blobs is not None or request.only is not None
    variant = explain.variant(request.variant)
    changes = {
        "keys": None if request.keys is None else list(resolve_keys(request.keys)),
        "background": (False if restricted else None) if request.background is None else request.background,
        "few": request.few,
        "count": request.count,
    }
    rates = {name: getattr(request, name) for name in ("steps", "lambda_prox", "learning_rate")}
    search = explain.square if shape == "square" else explain.rect
    return Plan(
        request=request,
        columns=tuple(columns),
        replaced=replaced,
        blobs=request.blobs if restricted else variant.blobs,
        variant=_override(variant, changes, f"explain.{request.variant}"),
        search=_override(search, rates, f"explain.{shape}"),
        gate=_override(explain.gate, {"action": request.gate}, "explain.gate"),
        compose=_override(explain, {"compose": request.compose}, "explain").compose,
    )


def as_published(plan: Plan) -> Plan:
    """Return the plan as the published search runs it: of all blobs that help, rendered, with the published keys.

    Raises:
        BlobexError: The request asks for something that the published scripts cannot do.
    """
    from blobex.counterfactual.published import CHANGED_KEYS

    request, variant = plan.request, plan.variant
    if variant.count > 1 and request.variant == "targeted":
        raise BlobexError("the published targeted search finds one counterfactual at a time: use variant diverse")
    if plan.gate.action != "report":
        message = "the published search refines or skips nothing: let the gate report, or use search.mode fast"
        raise BlobexError(message)
    for name in ("steps", "lambda_prox", "learning_rate"):
        if getattr(request, name) is not None:
            raise BlobexError(f"the published search has its own {name}: leave it out, or use search.mode fast")
    keys = CHANGED_KEYS[request.variant] if request.keys is None else variant.keys
    variant = _override(variant, {"few": False, "keys": list(keys)}, f"explain.{request.variant}")
    return dataclasses.replace(plan, variant=variant, compose="full")


def _override(section: Section, values: dict[str, Any], name: str) -> Section:
    """Replace values of a section, leaving out None, and check them as if they were in params.yaml."""
    tree = dataclasses.asdict(section) | {key: value for key, value in values.items() if value is not None}
    return parse(type(section), tree, name)
