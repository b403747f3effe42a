"""Parameters of the stages that measure and show results: evaluate, truth, bench and report."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.value_types import SECTION, Distinct, Float, Int, Names, Shape


@dataclass(frozen=True, config=SECTION)
class Evaluate:
    """Measures of all networks and explanations on held-out images."""

    generated_images: Int = Field(ge=2, le=10**6, description="generated images compared with held-out ones")
    batch_size: Int = Field(ge=1, le=4096, description="affects speed only")


@dataclass(frozen=True, config=SECTION)
class PixelAttack:
    bound: Int = Field(ge=1, le=255, description="largest change of a pixel, in grey levels")
    step: Int = Field(ge=1, le=255, description="change of a pixel per step, in grey levels")
    steps: Int = Field(ge=1, le=10**5, description="maximum number of steps")


@dataclass(frozen=True, config=SECTION)
class RandomEdits:
    first: Float = Field(ge=1e-6, le=1e3, description="strength of the first try")
    factor: Float = Field(ge=1, le=10, description="ratio of the strengths of two successive tries")
    tries: Int = Field(ge=1, le=1000, description="maximum number of tries")


@dataclass(frozen=True, config=SECTION)
class Truth:
    """Test of explanations against the known causes of decisions about synthetic scenes: `blobex truth`."""

    setups: Distinct[Shape] = Field(description="setups to test; [] for data other than synthetic scenes")
    rules: Names[Literal["biased", "night", "verge"]] = Field(description="rules with a planted shortcut to find")
    methods: Names[Literal["ours", "published", "pixels", "random"]] = Field(description="methods to compare")
    images: Int = Field(ge=1, le=10**5, description="images to explain for each rule")
    published_images: Int = Field(ge=1, le=10**5, description="of these, images for the published search, too")
    touched: Float = Field(ge=0, le=255, description="mean change of a touched cause, at least, in grey levels")
    dilation: Int = Field(ge=0, le=64, description="margin around a cause that belongs to it, in pixels")
    pixels: PixelAttack = Field(description="adversarial attack on pixels (Madry et al., ICLR 2018)")
    random: RandomEdits = Field(description="random edits of blobs")
    seeds: Int = Field(ge=1, le=100, description="small models to train for each rule; 1: those of `decision` only")
    seed_steps: Int = Field(ge=1, le=10**6, description="training steps of a small model")
    seed_images: Int = Field(ge=1, le=10**5, description="images to explain for each small model")
    examples: Int = Field(ge=1, le=100, description="example explanations to show for each rule")


@dataclass(frozen=True, config=SECTION)
class Bench:
    """Speed of explanations and of training: `make bench`."""

    images: Int = Field(ge=4, le=10**5, description="images to explain")
    published_images: Int = Field(ge=1, le=10**5, description="of these, images for the published search, too")
    training_steps: Int = Field(ge=1, le=10**5, description="timed training steps; a multiple of blobgan.r1_every")


@dataclass(frozen=True, config=SECTION)
class Report:
    """One page with all results: `make report`."""

    pictures: Int = Field(ge=1, le=10**5, description="images of each setup to show; the figures are of all images")
