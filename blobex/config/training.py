"""Parameters of the stages that train a network, and of the statistics that rate the BlobGAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from blobex.config.limits import FileName, Within

Group = Literal[  # of segments
    "road",
    "verge",
    "side_lane",
    "lane",
    "building",
    "vegetation",
    "pole",
    "sign",
    "light",
    "fence",
    "person",
    "vehicle",
]


@dataclass(frozen=True)
class Checkpoints:
    every_n_steps: Annotated[int, Within(1, 10**7)]  # a checkpoint is written
    keep: Annotated[int, Within(-1, 1000)]  # -1 keeps all
    monitor: str  # "step", or a logged measure such as "fd_parser"
    mode: Literal["min", "max"]  # of the measure, what is best: the lowest or the highest


@dataclass(frozen=True)
class Resume:
    source: Literal["none", "last", "best", "step"]  # where a training goes on that was stopped
    run_id: str | None  # MLflow run to continue; null: the run that the checkpoint names
    step: Annotated[int | None, Within(0, 10**9)]  # with source "step"


@dataclass(frozen=True)
class Training:
    steps: Annotated[int, Within(1, 10**8)]  # of the optimiser
    batch_size: Annotated[
        int, Within(1, 4096)
    ]  # samples of all devices together; of wide pictures fewer, see run.batches
    accumulate: Annotated[int, Within(1, 1024)]  # batches per optimiser step, one after the other
    learning_rate: Annotated[float, Within(1e-8, 1.0)]  # at the beginning
    halve_every: Annotated[int, Within(0, 10**8)]  # steps; 0: constant learning rate
    checkpoint: Checkpoints
    resume: Resume


@dataclass(frozen=True)
class Parser:
    channels: Annotated[list[int], Within(1, 2048)]  # widths of the body, finest level first
    training: Training


@dataclass(frozen=True)
class Decision:
    variants: list[Literal["plain", "biased", "night", "verge"]]  # the rules whose decisions are learnt
    architecture: Literal["densenet121", "densenet_small"]
    training: Training


@dataclass(frozen=True)
class FidStats:
    name: Annotated[str, FileName()]  # lower-cased
    images: Annotated[int, Within(2, 10**6)]  # at most
    shuffle: bool  # whether they are drawn at random if there are more
    batch_size: Annotated[int, Within(1, 4096)]  # matters to speed only
    path: str | None  # folder of pictures; null: the data set's training pictures


@dataclass(frozen=True)
class Jitter:
    position: Annotated[float, Within(0, 1)]  # shares of the picture
    size: Annotated[float, Within(0, 10)]  # of the size logit
    angle: Annotated[float, Within(0, 3.2)]  # radians


@dataclass(frozen=True)
class Network:
    blobs: Annotated[int, Within(1, 512)]  # K, the background not counted
    blob_area: Annotated[float, Within(1e-5, 1)]  # squared half-axis of a blob of size 1, in squared picture heights
    size_in: Annotated[int, Within(4, 64)]  # height of the input grid
    feature_dim: Annotated[int, Within(1, 2048)]  # numbers that a blob writes into the input grid
    style_dim: Annotated[int, Within(1, 2048)]  # numbers that modulate the convolutions where a blob is
    layout: Literal["flow", "mlp"]  # how z becomes a layout: a flow fitted to real ones, or layers the GAN trains
    z_dim: Annotated[int, Within(1, 2048)]  # numbers of z, which layouts are sampled from
    layout_hidden: Annotated[int, Within(1, 4096)]  # width of the flow, or of the layers: numbers of w
    layout_layers: Annotated[int, Within(2, 32)]  # residual blocks of the flow, or linear layers
    norm_features: bool  # whether features and styles are pixel-normalised
    channels: Annotated[dict[int, int], Within(1, 2048)]  # generator: height of a level to its width
    discriminator_channels: Annotated[dict[int, int], Within(1, 2048)]  # height of a level to its width
    rectangle: Literal["native", "legacy"]  # how the score maps of a rectangle are made


@dataclass(frozen=True)
class BlobganPretrain:
    slots: Annotated[dict[Group, int], Within(1, 100)]  # blobs of each group of segments, the hindmost first
    code_dim: Annotated[int, Within(1, 2048)]  # of what a blob looks like
    examples: Annotated[int, Within(1, 10**5)]  # pictures whose blobs are kept beside the weights, for `explain`
    code_noise: Annotated[float, Within(0, 10)]  # deviation, so that near codes look alike
    l1: Annotated[float, Within(0, 1e4)]  # weight of the absolute difference of pixels
    perceptual: Annotated[float, Within(0, 1e4)]  # weight of the perceptual distance
    training: Training  # of the generator
    layout: Training  # of the flow of layouts, afterwards


@dataclass(frozen=True)
class Blobgan:
    start: Literal["pretrained", "scratch"]  # the weights of blobgan_pretrain, or random ones
    network: Network
    training: Training
    flips: bool  # whether the discriminator sees real pictures mirrored half of the time
    painting_weight: Annotated[float, Within(0, 1e4)]  # of blobgan_pretrain's loss, beside; 0: none
    r1_weight: Annotated[float, Within(0, 1e6)]  # of the squared gradient at real pictures
    r1_every: Annotated[int, Within(1, 1000)]  # steps, and weighted as often
    ema_half_life_images: Annotated[float, Within(1, 1e9)]  # after so many the moving average has half forgotten
    jitter: Jitter
    sample_every_n_steps: Annotated[int, Within(1, 10**8)]  # generated pictures are logged
    fid_every_n_steps: Annotated[int, Within(0, 10**8)]  # 0: never while training
    fid_images: Annotated[int, Within(2, 10**6)]  # generated for each measurement
    mean_latent_samples: Annotated[int, Within(1, 10**6)]  # over which the mean w is taken


@dataclass(frozen=True)
class EncoderPretrain:
    architecture: Literal["stylegan", "resnet"]
    channels: Annotated[dict[int, int], Within(1, 2048)]  # height of a level to its width
    mlp_idx: Annotated[int, Within(-32, -1)]  # w is the activation before this layer of mlp; -1 with a flow
    training: Training


@dataclass(frozen=True)
class RealWeights:
    perceptual: Annotated[float, Within(0, 1e4)]  # distance
    l1: Annotated[float, Within(0, 1e4)]  # absolute difference of pixels
    l2: Annotated[float, Within(0, 1e4)]  # squared difference of pixels
    decision: Annotated[float, Within(0, 1e4)]  # squared difference of the decision's features


@dataclass(frozen=True)
class GeneratedWeights:
    perceptual: Annotated[float, Within(0, 1e4)]  # distance
    l1: Annotated[float, Within(0, 1e4)]  # absolute difference of pixels
    l2: Annotated[float, Within(0, 1e4)]  # squared difference of pixels
    decision: Annotated[float, Within(0, 1e4)]  # squared difference of the decision's features
    blobs: Annotated[float, Within(0, 1e4)]  # squared difference of the six keys


@dataclass(frozen=True)
class Encoder:
    training: Training
    real: RealWeights  # weights of the loss of real pictures
    generated: GeneratedWeights  # weights of the loss of generated pictures
