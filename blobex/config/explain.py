"""Parameters of explanations: inversion, counterfactual search, evaluation and report."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.value_types import SECTION, Bool, Distinct, Float, Int, Names, Shape, Text, Weight
from blobex.core.errors import BlobexError

VARIANTS = ("basic", "targeted", "diverse")  # of explain

Key = Literal["xs", "ys", "covs", "sizes", "features", "spatial_style"]


@dataclass(frozen=True, config=SECTION)
class Search:
    """Inversions and counterfactual searches."""

    mode: Literal["fast", "published"] = Field(description="published: step for step as the published scripts")
    max_batch_pixels: Int | None = Field(ge=1024, le=2**31, description="pixels of a batch; null: by the device")


@dataclass(frozen=True, config=SECTION)
class InversionParams:
    steps: Int = Field(ge=0, le=10**5, description="Adam steps")
    decision_steps: Int = Field(ge=0, le=10**5, description="number of last steps whose loss includes the decision")
    learning_rate: Float = Field(ge=1e-6, le=10, description="initial learning rate")
    size_lr_multiplier: Float = Field(ge=1e-3, le=1e3, description="learning rate of sizes / learning_rate")
    perceptual: Weight = Field(description="weight of the perceptual distance")
    l2: Weight = Field(description="weight of the mean squared difference of pixels")
    decision: Weight = Field(description="weight of the mean squared difference of the decision model's features")
    blobs: Weight = Field(description="weight of the mean squared difference from the initial layout")
    density: Weight = Field(description="weight of the unusualness of the blobs' appearances; 0: none")


@dataclass(frozen=True, config=SECTION)
class Invert:
    """Inversion: the layout that renders to a given image."""

    start: Literal["blobgan_pretrain", "encoder"] = Field(
        description="encoder of the initial layout: blobgan_pretrain's, which encodes the parser's segments, or encoder"
    )
    source: Literal["real", "generated"] = Field(description="images to invert")
    images: Int = Field(ge=1, le=10**6, description="number of images to invert and to explain")
    truncation: Float = Field(ge=0, le=1, description="truncation of generated images; 0: none, 1: the mean layout")
    square: InversionParams = Field(description="hyperparameters of the setup square")
    rect: InversionParams = Field(description="hyperparameters of the setup rect")


@dataclass(frozen=True, config=SECTION)
class SearchParams:
    examples: Int = Field(ge=0, le=1000, description="stored examples to try for each object at first; 0: none")
    steps: Int = Field(ge=1, le=10**5, description="maximum number of Adam steps")
    learning_rate: Float = Field(ge=1e-6, le=10, description="learning rate of all keys but sizes")
    size_lr_multiplier: Float = Field(ge=1e-3, le=1e3, description="learning rate of sizes / learning_rate")
    lambda_prox: Float = Field(ge=0, le=1e3, description="weight of the proximity loss")
    density: Weight = Field(description="weight of the unusualness of changed appearances; 0: any may be an answer")
    disturbances: Int = Field(
        ge=0, le=64, description="disturbed copies of a counterfactual that must be decided like it; 0: none"
    )
    nameable: Bool = Field(description="whether the parser, where there is one, must see what a change changed")
    margin: Float = Field(ge=0, le=100, description="logits beyond the decision boundary that count as a flip")
    patience: Int = Field(ge=0, le=10**5, description="steps without a nearer flip before the search stops")
    retries: Int = Field(ge=0, le=4, description="further searches without a flip, each 8 times as fast")
    bisections: Int = Field(ge=0, le=30, description="bisections of the line search for the decision boundary")
    lambda_key: dict[Key, Weight] = Field(description="weight of each key's mean absolute change")


@dataclass(frozen=True, config=SECTION)
class ExplainVariant:
    keys: Names[Key] = Field(description="keys of the layout that may change")
    blobs: list[Annotated[Int, Field(ge=0, le=511)]] | None = Field(description="blobs that may change; null: all")
    background: Bool = Field(description="whether the background may change")
    few: Bool = Field(description="whether to change as few blobs as the flip allows")
    count: Int = Field(ge=1, le=16, description="counterfactuals of each query, each of which changes other blobs")


@dataclass(frozen=True, config=SECTION)
class Gate:
    action: Literal["report", "refine", "skip"] = Field(
        description="treatment of images whose reconstruction is too far off or decided otherwise than the image"
    )
    refine_steps: Int = Field(ge=1, le=10**5, description="steps of the second inversion with action refine")
    perceptual: Float | None = Field(ge=0, le=100, description="distance that is too far; null: none is")


@dataclass(frozen=True, config=SECTION)
class ExplainImages:
    basic: Int = Field(ge=1, le=10**6, description="images to explain; at most invert.images")
    targeted: Int = Field(ge=1, le=10**6, description="images to explain; at most invert.images")
    diverse: Int = Field(ge=1, le=10**6, description="images to explain; at most invert.images")


@dataclass(frozen=True, config=SECTION)
class Explain:
    """Counterfactual explanations."""

    decision: Literal["plain", "biased"] = Field(description="decision model of the stage to explain")
    attributes: Names[Text] = Field(description="outputs of the decision model to flip, by name or number")
    images: ExplainImages = Field(description="number of inverted images that the stage explains, by variant")
    published_format: Bool = Field(description="whether the stage writes metadata_<i>.pt, too")
    compose: Literal["photo", "full"] = Field(
        description="photo: the change is composed onto the photo; full: the whole image is rendered"
    )
    gate: Gate = Field(description="treatment of poor reconstructions")
    basic: ExplainVariant = Field(description="variant basic")
    targeted: ExplainVariant = Field(description="variant targeted")
    diverse: ExplainVariant = Field(description="variant diverse")
    square: SearchParams = Field(description="hyperparameters of the setup square")
    rect: SearchParams = Field(description="hyperparameters of the setup rect")

    def variant(self, name: str) -> ExplainVariant:
        """Return a variant by name; BlobexError if there is no such variant."""
        if name not in VARIANTS:
            raise BlobexError(f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}")
        return {"basic": self.basic, "targeted": self.targeted, "diverse": self.diverse}[name]


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
    phrases: Int = Field(ge=1, le=1000, description="most frequent phrases of each model that are tried as causes")
    fresh_scenes: Int = Field(ge=0, le=10**5, description="fresh scenes on which they are tried; 0: they are not")


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
