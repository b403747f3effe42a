"""Parameters of the stages that train a network, and of the statistics for the Frechet distance."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.value_types import (
    SECTION,
    Bool,
    Distinct,
    FileName,
    Float,
    Int,
    Names,
    Shape,
    Text,
    Weight,
    Width,
    Widths,
)

# fmt: off
Group = Literal[  # of segments
    "road", "verge", "side_lane", "lane", "building", "vegetation",
    "pole", "sign", "light", "fence", "person", "vehicle",
]
# fmt: on


@dataclass(frozen=True, config=SECTION)
class Checkpoints:
    every_n_steps: Int = Field(ge=1, le=10**7, description="steps between two checkpoints")
    keep: Int = Field(ge=-1, le=1000, description="number of checkpoints to keep; -1: all")
    monitor: Text = Field(description='"step", or a logged measure such as "fd_parser", that ranks the checkpoints')
    mode: Literal["min", "max"] = Field(description="whether the lowest or the highest value of monitor is best")


@dataclass(frozen=True, config=SECTION)
class Resume:
    source: Literal["none", "last", "best", "step"] = Field(description="checkpoint to resume an interrupted run from")
    run_id: Text | None = Field(description="MLflow run to continue; null: the run that the checkpoint names")
    step: Int | None = Field(ge=0, le=10**9, description="step of the checkpoint with source step")


@dataclass(frozen=True, config=SECTION)
class Training:
    steps: Int = Field(ge=1, le=10**8, description="optimiser steps")
    batch_size: Int = Field(ge=1, le=4096, description="samples of all devices together; see run.batches")
    accumulate: Int = Field(ge=1, le=1024, description="batches per optimiser step")
    learning_rate: Float = Field(ge=1e-8, le=1.0, description="initial learning rate")
    halve_every: Int = Field(ge=0, le=10**8, description="steps per halving of the learning rate; 0: none")
    checkpoint: Checkpoints = Field(description="checkpoints")
    resume: Resume = Field(description="how to resume an interrupted run")


@dataclass(frozen=True, config=SECTION)
class OptionalTraining(Training):
    """Training that may be left out."""

    steps: Int = Field(ge=0, le=10**8, description="optimiser steps; 0: the initial weights are kept")


@dataclass(frozen=True, config=SECTION)
class ParserParams:
    """Parser: the network that segments and detects objects."""

    channels: list[Width] = Field(strict=True, description="widths of the encoder's levels, finest first")
    training: Training = Field(description="training of the parser")


@dataclass(frozen=True, config=SECTION)
class DecisionParams:
    """Decision models to explain."""

    variants: Names[Literal["plain", "biased", "night", "verge"]] = Field(description="decision rules to learn")
    architecture: Literal["densenet121", "densenet_small"] = Field(description="densenet121: as published")
    training: Training = Field(description="training of a decision model")


@dataclass(frozen=True, config=SECTION)
class ControlParams:
    """Control model: a regression of steering and brake to explain, for synthetic scenes only."""

    setups: Distinct[Shape] = Field(description="setups to train it for; [] for data other than synthetic scenes")
    training: Training = Field(description="training of the control model")


@dataclass(frozen=True, config=SECTION)
class FidStats:
    """Statistics of real images for the Frechet distance."""

    name: FileName = Field(description="name of the statistics' files, which is converted to lower case")
    images: Int = Field(ge=2, le=10**6, description="maximum number of images")
    shuffle: Bool = Field(description="whether to choose the images at random if there are more")
    batch_size: Int = Field(ge=1, le=4096, description="affects speed only")
    path: Text | None = Field(description="folder of images; null: the data set's training images")


@dataclass(frozen=True, config=SECTION)
class Jitter:
    position: Float = Field(ge=0, le=1, description="largest shift of a blob's centre, relative to the image size")
    size: Float = Field(ge=0, le=10, description="largest change of a size logit")
    angle: Float = Field(ge=0, le=3.2, description="largest rotation, in radians")


@dataclass(frozen=True, config=SECTION)
class Appearance:
    """Decoder of appearance codes: a blob's textures and edge, defined in the upright frame around its ellipse."""

    texture_levels: list[Int] = Field(description="heights of the generator's levels that have textures")
    texture_grid: Int = Field(ge=2, le=64, description="points of a texture along each side of the frame")
    texture_channels: Int = Field(ge=1, le=512, description="channels of a texture")
    edge_grid: Int = Field(ge=0, le=64, description="points of the edge along each side of the frame; 0: none")
    edge_limit: Float = Field(ge=0.01, le=100, description="largest change of an opacity logit by the edge")


@dataclass(frozen=True, config=SECTION)
class Network:
    blobs: Int = Field(ge=1, le=512, description="number of blobs, K, without the background")
    blob_area: Float = Field(
        ge=1e-5, le=1, description="squared half-axis of a blob of size 1, in squared image heights; published: 0.02"
    )
    size_in: Int = Field(ge=4, le=64, description="height of the input grid")
    feature_dim: Int = Field(ge=1, le=2048, description="length of the features splatted onto the input grid")
    style_dim: Int = Field(ge=1, le=2048, description="length of the styles that modulate the convolutions")
    layout: Literal["flow", "mlp"] = Field(
        description="network from z to a layout. flow: fitted to real layouts in blobgan_pretrain; mlp: trained with "
        "the GAN"
    )
    z_dim: Int = Field(ge=1, le=2048, description="length of z, the latent vector of a layout")
    layout_hidden: Int = Field(ge=1, le=4096, description="hidden width of the flow, or length of w with mlp")
    layout_layers: Int = Field(ge=2, le=32, description="residual blocks of the flow, or linear layers of mlp")
    norm_features: Bool = Field(description="whether to divide features and styles by their root mean square")
    channels: Widths = Field(description="width of each generator level by its height")
    discriminator_channels: Widths = Field(description="width of each discriminator level by its height")
    rectangle: Literal["native", "legacy"] = Field(description="legacy: for published rectangular checkpoints")
    appearance: Appearance | None = Field(
        default=None, description="decoder of appearance codes; null: features and styles are no codes, as published"
    )


@dataclass(frozen=True, config=SECTION)
class Pasted:
    """Tasks with pasted objects, as shares of the samples; the rest are images as they are."""

    removed: Float = Field(ge=0, le=1, description="the object is removed: what it hides is rendered")
    inserted: Float = Field(ge=0, le=1, description="the object is inserted, with the code of its own image")
    kept: Float = Field(ge=0, le=1, description="the image is rendered with the object")
    weight: Weight = Field(description="additional weight of the object's pixels where it is removed or inserted")


@dataclass(frozen=True, config=SECTION)
class BlobganPretrain:
    """Pretraining of the BlobGAN: the generator learns to paint the parser's segments, a flow to sample layouts."""

    slots: dict[Group, Annotated[Int, Field(ge=1, le=100)]] = Field(
        description="blobs of each group of segments, from back to front; blobgan.network.blobs in all"
    )
    examples: Int = Field(ge=1, le=10**5, description="images whose layouts are saved for `blobex explain`")
    code_noise: Float = Field(ge=0, le=10, description="standard deviation of the noise on codes")
    pasted: Pasted = Field(description="objects of other images that are pasted into the training images")
    l1: Weight = Field(description="weight of the mean absolute difference of pixels")
    scales: Int = Field(ge=1, le=8, description="scales of that difference, each half the size of the one before")
    differences: Weight = Field(description="weight of the differences of neighbouring pixels, relative to l1")
    perceptual: Weight = Field(description="weight of the perceptual distance; 0: it is not computed")
    training: Training = Field(description="training of the generator")
    layout: Training = Field(description="training of the flow of layouts, after the generator")


@dataclass(frozen=True, config=SECTION)
class Blobgan:
    """Adversarial training of the BlobGAN."""

    start: Literal["pretrained", "scratch"] = Field(description="weights of blobgan_pretrain, or random ones")
    network: Network = Field(description="architecture of generator and discriminator")
    training: OptionalTraining = Field(description="training of the BlobGAN")
    flips: Bool = Field(description="whether half of the discriminator's real images are mirrored")
    painting_weight: Weight = Field(description="weight of blobgan_pretrain's loss in the generator's loss; 0: none")
    r1_weight: Float = Field(
        ge=0, le=1e6, description="weight of the R1 penalty, half the squared gradient; published: 50 without the half"
    )
    r1_every: Int = Field(ge=1, le=1000, description="steps between two R1 penalties, which are weighted accordingly")
    ema_half_life_images: Float = Field(ge=1, le=1e9, description="half-life of the weights' moving average, in images")
    jitter: Jitter = Field(description="random changes of sampled layouts")
    sample_every_n_steps: Int = Field(ge=1, le=10**8, description="steps between two logs of generated images")
    fid_every_n_steps: Int = Field(ge=0, le=10**8, description="steps per Frechet distance; 0: none")
    fid_images: Int = Field(ge=2, le=10**6, description="generated images of a measurement")
    mean_latent_samples: Int = Field(ge=1, le=10**6, description="samples of the mean w")


@dataclass(frozen=True, config=SECTION)
class EncoderPretrain:
    """Pretraining of the encoder on generated images."""

    architecture: Literal["stylegan", "resnet"] = Field(description="residual network of StyleGAN2, or ResNet-18")
    channels: Widths = Field(description="width of each level by its height")
    mlp_idx: Int = Field(ge=-32, le=-1, description="layer of mlp whose input the encoder predicts; -1 with a flow")
    training: Training = Field(description="training of the encoder")


@dataclass(frozen=True, config=SECTION)
class RealWeights:
    perceptual: Weight = Field(description="weight of the perceptual distance")
    l1: Weight = Field(description="weight of the mean absolute difference of pixels")
    l2: Weight = Field(description="weight of the mean squared difference of pixels")
    decision: Weight = Field(description="weight of the mean squared difference of the decision model's features")


@dataclass(frozen=True, config=SECTION)
class GeneratedWeights(RealWeights):
    blobs: Weight = Field(
        description="weight of the mean squared difference of the layouts, summed over six keys; published: 10 averaged"
    )


@dataclass(frozen=True, config=SECTION)
class EncoderParams:
    """Training of the encoder on real and generated images."""

    training: Training = Field(description="training of the encoder")
    real: RealWeights = Field(description="loss of real images")
    generated: GeneratedWeights = Field(description="loss of generated images")


@dataclass(frozen=True, config=SECTION)
class Augmentation:
    """Random changes of training images, each image's own; 1 is half of the range of a pixel."""

    noise: Float = Field(ge=0, le=1, description="largest standard deviation of Gaussian noise")
    brightness: Float = Field(ge=0, le=1, description="largest shift of all pixels")
    contrast: Float = Field(ge=0, le=0.9, description="largest relative change of the distance from middle grey")


@dataclass(frozen=True, config=SECTION)
class DecisionWitnessParams:
    channels: list[Width] = Field(strict=True, description="widths of the levels, finest first; divisible by 8")
    training: Training = Field(description="training of the decision witness")


@dataclass(frozen=True, config=SECTION)
class ReadingWitnessParams:
    channels: Width = Field(description="width of all blocks; divisible by 16")
    training: Training = Field(description="training of the reading witness")


@dataclass(frozen=True, config=SECTION)
class WitnessParams:
    """Witnesses: networks that nothing is trained or searched against, which measure explanations."""

    seed_offset: Int = Field(
        ge=1, le=10**6, description="added to the seeds of the scenes and of the training of other networks"
    )
    scenes: Int = Field(
        ge=1, le=10**6, description="scenes to render for training; of a real data set, the training split is used"
    )
    augmentation: Augmentation = Field(description="random changes of training images")
    decision: DecisionWitnessParams = Field(description="network that decides by all rules of decision.variants")
    reading: ReadingWitnessParams = Field(description="network that parses scenes")
