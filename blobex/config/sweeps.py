"""Parameters of hyperparameter sweeps: search space, budget and limits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.value_types import SECTION, Bool, Float, Int, Names, Seed, Variant

Images = Annotated[Int, Field(ge=1, le=10**5)]
TrialImages = Annotated[Images, Field(description="images of a trial")]
FinalImages = Annotated[Images, Field(description="other images, to measure the finalists on")]
HeldOutImages = Annotated[Images, Field(description="other images, for the final comparison")]
Chunk = Annotated[Images, Field(description="images between two decisions about pruning a trial")]
Seconds = Annotated[
    Float | None,
    Field(ge=0, le=1e6, description="limit of one core's time per square image, more for wider ones; null: no limit"),
]
# fmt: off
SearchName = Literal[
    "travel", "learning_rate", "steps", "size_lr_multiplier", "lambda_prox", "margin", "patience", "bisections",
]
InversionName = Literal[
    "travel", "learning_rate", "steps", "decision_steps", "size_lr_multiplier", "perceptual", "l2", "decision", "blobs",
]
# fmt: on


@dataclass(frozen=True, config=SECTION)
class Range:
    """Range of values of one hyperparameter."""

    low: Float = Field(ge=-1e12, le=1e12, description="smallest value")
    high: Float = Field(ge=-1e12, le=1e12, description="largest value")
    log: Bool = Field(description="whether to sample on a logarithmic scale")
    whole: Bool = Field(description="whether to sample whole numbers only")


@dataclass(frozen=True, config=SECTION)
class Sweep:
    trials: Int = Field(ge=1, le=10**5, description="total number of trials, those of earlier calls included")
    sampler: Literal["gp", "tpe", "random"] = Field(description="sampler of Optuna")
    seed: Seed = Field(description="seed of the sampler")
    pruner: Literal["wilcoxon", "median", "none"] = Field(description="pruner of Optuna; none with mode pareto")
    mode: Literal["single", "pareto"] = Field(description="one objective within limits, or several objectives")
    finalists: Int = Field(ge=1, le=100, description="best trials to repeat on other images; 1: no repetition")


@dataclass(frozen=True, config=SECTION)
class SweepCf(Sweep):
    """Sweep over the hyperparameters in explain.<setup>: `make sweep-cf`."""

    variants: Names[Variant] = Field(description="variants of explain, assigned to the images in turn")
    questions: Literal["one", "all"] = Field(description="one of explain.attributes per image, in turn, or all")
    images: TrialImages = Field()
    finals: FinalImages = Field()
    held_out: HeldOutImages = Field()
    chunk: Chunk = Field()
    flip_rate: Float = Field(ge=0, le=1, description="minimum share of flipped decisions")
    seconds: Seconds = Field()
    blob_price: Float = Field(ge=0, le=100, description="objective's cost of a changed blob, in perceptual distance")
    space: dict[SearchName, Range] = Field(
        description="ranges to search; travel is learning_rate * steps and replaces learning_rate"
    )


@dataclass(frozen=True, config=SECTION)
class SweepInvert(Sweep):
    """Sweep over the hyperparameters in invert.<setup>: `make sweep-invert`."""

    images: TrialImages = Field()
    finals: FinalImages = Field()
    held_out: HeldOutImages = Field()
    chunk: Chunk = Field()
    agreement: Float = Field(ge=0, le=1, description="minimum share of images decided like their reconstruction")
    seconds: Seconds = Field()
    space: dict[InversionName, Range] = Field(
        description="ranges to search; travel is learning_rate * steps and replaces learning_rate"
    )


@dataclass(frozen=True, config=SECTION)
class SweepEncoder(Sweep):
    """Sweep over the hyperparameters in encoder_pretrain.training: `make sweep-encoder`."""

    steps: Int = Field(ge=1, le=10**7, description="training steps of a trial")
    images: Int = Field(ge=2, le=10**5, description="generated images to measure a trial on")
    held_out: Int = Field(ge=2, le=10**5, description="generated images of the final comparison")
    space: dict[Literal["learning_rate", "halvings"], Range] = Field(
        description="ranges to search; halvings is the number of times that the learning rate is halved"
    )
