"""Parameters of what measures and shows results: evaluate, truth, bench and report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from blobex.config.limits import MayBeEmpty, Shape, Within


@dataclass(frozen=True)
class Evaluate:
    generated_images: Annotated[int, Within(2, 10**6)]  # compared with held-out ones
    batch_size: Annotated[int, Within(1, 4096)]  # matters to speed only


@dataclass(frozen=True)
class PixelAttack:
    bound: Annotated[int, Within(1, 255)]  # grey levels that a pixel may change
    step: Annotated[int, Within(1, 255)]  # grey levels
    steps: Annotated[int, Within(1, 10**5)]  # at most


@dataclass(frozen=True)
class RandomEdits:
    first: Annotated[float, Within(1e-6, 1e3)]  # strength of the first try
    factor: Annotated[float, Within(1, 10)]  # by which each next one is stronger
    tries: Annotated[int, Within(1, 1000)]  # at most


@dataclass(frozen=True)
class Truth:
    setups: Annotated[list[Shape], MayBeEmpty()]  # of synthetic scenes only
    rules: list[Literal["biased", "night", "verge"]]  # planted shortcuts to find, beside the plain rules
    methods: list[Literal["ours", "published", "pixels", "random"]]  # that are compared
    images: Annotated[int, Within(1, 10**5)]  # that are explained, of each rule
    published_images: Annotated[int, Within(1, 10**5)]  # the first of them, also explained the published way
    touched: Annotated[float, Within(0, 255)]  # grey levels by which a cause changes on average if it was touched
    dilation: Annotated[int, Within(0, 64)]  # pixels around a cause that count as its own
    pixels: PixelAttack
    random: RandomEdits
    seeds: Annotated[int, Within(1, 100)]  # small models of each rule; 1: none, the models of `decision` alone
    seed_steps: Annotated[int, Within(1, 10**6)]  # of training a small model
    seed_images: Annotated[int, Within(1, 10**5)]  # explained for each of them
    examples: Annotated[int, Within(1, 100)]  # questions shown of each rule


@dataclass(frozen=True)
class Bench:
    images: Annotated[int, Within(4, 10**5)]  # that are explained
    published_images: Annotated[int, Within(1, 10**5)]  # the first of them, also explained the published way
    training_steps: Annotated[int, Within(1, 10**5)]


@dataclass(frozen=True)
class Report:
    pictures: Annotated[int, Within(1, 10**5)]  # of each setup whose explanations are shown; figures are of all
