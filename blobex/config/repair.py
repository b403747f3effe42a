"""Parameters of the repair of decision models by their explanations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.training import Training
from blobex.config.value_types import SECTION, Distinct, Float, Int, Names, Shape


@dataclass(frozen=True, config=SECTION)
class Repair:
    """Fine-tuning of decision models on their own counterfactuals, with corrected labels: `blobex repair`."""

    setups: Distinct[Shape] = Field(description="setups of the stage; [] for data other than synthetic scenes")
    rules: Names[Literal["biased", "night", "verge"]] = Field(description="rules whose models the stage repairs")
    methods: Names[Literal["ours", "published", "pixels", "photos"]] = Field(
        description="sources of the images to compare: counterfactuals of three methods, or unchanged training images"
    )
    images: Int = Field(ge=1, le=10**5, description="training images to explain for each rule")
    published_images: Int = Field(ge=1, le=10**5, description="of these, images for the published search, too")
    group_images: Int = Field(ge=1, le=10**4, description="test scenes in each of the four groups")
    replay: Float = Field(ge=0, le=0.99, description="share of a batch that are training images with their own labels")
    training: Training = Field(description="fine-tuning")
