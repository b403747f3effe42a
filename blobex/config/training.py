"""Parameters of the stages that train a network, and of the statistics that rate the BlobGAN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from blobex.config.limits import Within

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
    every_n_steps: Annotated[int, Within(1, 10**7)]
    keep: Annotated[int, Within(-1, 1000)]  # -1 keeps all
    monitor: str  # "step", or a logged measure such as "fd_parser"
    mode: Literal["min", "max"]


@dataclass(frozen=True)
class Resume:
    source: Literal["none", "last", "best", "step"]
    run_id: str | None  # MLflow run to continue; null: the run that the checkpoint names
    step: Annotated[int | None, Within(0, 10**9)]  # with source "step"


@dataclass(frozen=True)
class Training:
    steps: Annotated[int, Within(1, 10**8)]
    batch_size: Annotated[int, Within(1, 4096)]
    accumulate: Annotated[int, Within(1, 1024)]  # batches per optimiser step
    learning_rate: Annotated[float, Within(1e-8, 1.0)]
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
    name: str  # lower-cased
    images: Annotated[int, Within(2, 10**6)]
    shuffle: bool
    batch_size: Annotated[int, Within(1, 4096)]
    path: str | None  # folder of pictures; null: the data set's training pictures


@dataclass(frozen=True)
class Jitter:
    position: Annotated[float, Within(0, 1)]
    size: Annotated[float, Within(0, 10)]
    angle: Annotated[float, Within(0, 3.2)]  # radians


@dataclass(frozen=True)
class Network:
    blobs: Annotated[int, Within(1, 512)]
    blob_area: Annotated[float, Within(1e-5, 1)]  # squared half-axis of a blob of size 1, in squared picture heights
    size_in: Annotated[int, Within(4, 64)]  # height of the input grid
    feature_dim: Annotated[int, Within(1, 2048)]
    style_dim: Annotated[int, Within(1, 2048)]
    z_dim: Annotated[int, Within(1, 2048)]
    layout_hidden: Annotated[int, Within(1, 4096)]
    layout_layers: Annotated[int, Within(2, 32)]
    norm_features: bool
    channels: Annotated[dict[int, int], Within(1, 2048)]  # generator: height of a level to its width
    discriminator_channels: Annotated[dict[int, int], Within(1, 2048)]
    rectangle: Literal["native", "legacy"]  # how the score maps of a rectangle are made


@dataclass(frozen=True)
class BlobganPretrain:
    slots: Annotated[dict[Group, int], Within(1, 100)]  # blobs of each group of segments, the hindmost first
    code_dim: Annotated[int, Within(1, 2048)]  # of what a blob looks like
    code_noise: Annotated[float, Within(0, 10)]  # deviation, so that near codes look alike
    l1: Annotated[float, Within(0, 1e4)]
    perceptual: Annotated[float, Within(0, 1e4)]
    training: Training  # of the generator
    layout: Training  # of the layout network, afterwards


@dataclass(frozen=True)
class Blobgan:
    start: Literal["pretrained", "scratch"]  # the weights of blobgan_pretrain, or random ones
    network: Network
    training: Training
    flips: bool  # whether the discriminator sees real pictures mirrored half of the time
    painting_weight: Annotated[float, Within(0, 1e4)]  # of blobgan_pretrain's loss, beside; 0: none
    r1_weight: Annotated[float, Within(0, 1e6)]
    r1_every: Annotated[int, Within(1, 1000)]
    ema_half_life_images: Annotated[float, Within(1, 1e9)]
    jitter: Jitter
    sample_every_n_steps: Annotated[int, Within(1, 10**8)]
    fid_every_n_steps: Annotated[int, Within(0, 10**8)]  # 0: never while training
    fid_images: Annotated[int, Within(2, 10**6)]
    mean_latent_samples: Annotated[int, Within(1, 10**6)]


@dataclass(frozen=True)
class EncoderPretrain:
    architecture: Literal["stylegan", "resnet"]
    channels: Annotated[dict[int, int], Within(1, 2048)]  # height of a level to its width
    mlp_idx: Annotated[int, Within(-32, -1)]  # w is the activation before this layer of the layout network
    training: Training


@dataclass(frozen=True)
class RealWeights:
    perceptual: Annotated[float, Within(0, 1e4)]
    l1: Annotated[float, Within(0, 1e4)]
    l2: Annotated[float, Within(0, 1e4)]
    decision: Annotated[float, Within(0, 1e4)]


@dataclass(frozen=True)
class GeneratedWeights:
    perceptual: Annotated[float, Within(0, 1e4)]
    l1: Annotated[float, Within(0, 1e4)]
    l2: Annotated[float, Within(0, 1e4)]
    decision: Annotated[float, Within(0, 1e4)]
    blobs: Annotated[float, Within(0, 1e4)]


@dataclass(frozen=True)
class Encoder:
    training: Training
    real: RealWeights
    generated: GeneratedWeights
