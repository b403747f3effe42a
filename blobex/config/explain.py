"""Parameters of inversions and of counterfactuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from blobex.config.limits import Within
from blobex.core.errors import BlobexError

VARIANTS = ("basic", "targeted", "diverse")  # of explain


Key = Literal["xs", "ys", "covs", "sizes", "features", "spatial_style"]


@dataclass(frozen=True)
class Search:
    mode: Literal["fast", "published"]  # published: step for step as OCTET's scripts, to compare with
    max_batch_pixels: Annotated[int | None, Within(1024, 2**31)]  # worked on at once; null: by the device


@dataclass(frozen=True)
class InversionParams:
    steps: Annotated[int, Within(0, 10**5)]  # of Adam
    decision_steps: Annotated[int, Within(0, 10**5)]  # the last ones, which look at the decision too
    learning_rate: Annotated[float, Within(1e-6, 10)]  # at the beginning
    size_lr_multiplier: Annotated[float, Within(1e-3, 1e3)]  # the learning rate of sizes is so many times as high
    perceptual: Annotated[float, Within(0, 1e4)]  # weight of the perceptual distance
    l2: Annotated[float, Within(0, 1e4)]  # weight of the squared difference of pixels
    decision: Annotated[float, Within(0, 1e4)]  # weight of the squared difference of the decision's features
    blobs: Annotated[float, Within(0, 1e4)]  # weight of the squared difference to the blobs at the start


@dataclass(frozen=True)
class Invert:
    start: Literal["blobgan_pretrain", "encoder"]  # whose encoder says where the search begins
    source: Literal["real", "generated"]
    images: Annotated[int, Within(1, 10**6)]  # that are inverted, and explained
    truncation: Annotated[float, Within(0, 1)]  # of generated pictures
    square: InversionParams
    rect: InversionParams


@dataclass(frozen=True)
class SearchParams:
    examples: Annotated[int, Within(0, 1000)]  # of each object that are tried before gradients; 0: gradients alone
    steps: Annotated[int, Within(1, 10**5)]  # at most
    learning_rate: Annotated[float, Within(1e-6, 10)]  # of all keys but sizes
    size_lr_multiplier: Annotated[float, Within(1e-3, 1e3)]  # the learning rate of sizes is so many times as high
    lambda_prox: Annotated[float, Within(0, 1e3)]  # price of change
    margin: Annotated[float, Within(0, 100)]  # logits past the border where a decision counts as flipped on the way
    patience: Annotated[int, Within(0, 10**5)]  # steps without a nearer flip, then the search ends
    retries: Annotated[int, Within(0, 4)]  # of what does not flip, each at 8 times the learning rate of the one before
    bisections: Annotated[int, Within(0, 30)]  # of the way back from the flip to its border
    lambda_key: Annotated[dict[Key, float], Within(0, 1e4)]  # price of each key's mean absolute change


@dataclass(frozen=True)
class ExplainVariant:
    keys: list[Key]  # of the layout that may change
    blobs: Annotated[list[int] | None, Within(0, 511)]  # blobs that may change; null: all
    background: bool  # whether the background may change
    few: bool  # as few blobs as the flip bears
    count: Annotated[int, Within(1, 16)]  # counterfactuals of each question, each with blobs of its own


@dataclass(frozen=True)
class Gate:
    action: Literal["report", "refine", "skip"]  # what to do where a reconstruction does not stand for its photo
    refine_steps: Annotated[int, Within(1, 10**5)]  # of a second inversion, from where the first ended
    perceptual: Annotated[float | None, Within(0, 100)]  # distance from which it does not; null: none


@dataclass(frozen=True)
class ExplainImages:
    basic: Annotated[int, Within(1, 10**6)]  # pictures; at most as many as are inverted
    targeted: Annotated[int, Within(1, 10**6)]  # pictures
    diverse: Annotated[int, Within(1, 10**6)]  # pictures


@dataclass(frozen=True)
class Explain:
    decision: Literal["plain", "biased"]  # `blobex explain --decision` takes any model
    attributes: list[str]  # outputs in question, by name or number
    images: ExplainImages  # the first of those that `invert` inverted, which the stage explains
    published_format: bool  # whether the stage writes metadata_<i>.pt, too
    compose: Literal["photo", "full"]  # the change laid over the photo, or the whole picture rendered anew
    gate: Gate
    basic: ExplainVariant
    targeted: ExplainVariant
    diverse: ExplainVariant
    square: SearchParams
    rect: SearchParams

    def variant(self, name: str) -> ExplainVariant:
        """One of the variants by name; BlobexError if there is none of that name."""
        if name not in VARIANTS:
            raise BlobexError(f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}")
        found: ExplainVariant = getattr(self, name)
        return found
