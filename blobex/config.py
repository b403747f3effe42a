"""The truth of a run: params.yaml, one frozen dataclass per section.

`load` refuses unknown, missing, repeated and out-of-range keys with one sentence that names the
key and what is allowed.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from blobex.errors import BlobexError

T = TypeVar("T")
Shape = Literal["square", "rect"]
VARIANTS = ("basic", "targeted", "diverse")  # of explain
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
Key = Literal["xs", "ys", "covs", "sizes", "features", "spatial_style"]


@dataclass(frozen=True)
class Within:
    """The allowed range, ends included, of a number or of each number of a list or mapping."""

    minimum: float
    maximum: float

    def __str__(self) -> str:
        return f" from {self.minimum:g} to {self.maximum:g}"


@dataclass(frozen=True)
class MayBeEmpty:
    """Of a list: it may name nothing."""


@dataclass(frozen=True)
class Run:
    seed: Annotated[int, Within(0, 2**31 - 1)]
    device: Literal["auto", "cpu", "cuda"]  # auto: cuda where there is one
    devices: Annotated[int, Within(1, 64)]  # GPUs or processes per machine
    precision: Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 where the machine computes in it
    tracking_uri: str  # MLflow's store; "none" turns tracking off


@dataclass(frozen=True)
class Setup:
    height: Annotated[int, Within(16, 1024)]
    aspect_ratio: Annotated[int, Within(1, 4)]  # width / height

    @property
    def width(self) -> int:
        return self.height * self.aspect_ratio


@dataclass(frozen=True)
class Setups:
    square: Setup
    rect: Setup


@dataclass(frozen=True)
class Data:
    source: Literal["bdd100k", "folder"]  # folder: any pictures, without labels
    root: str  # holds bdd100k/ and bdd_oia/, or the pictures themselves
    cache: str | None  # decoded pictures are kept here; null: nowhere
    perceptual: Literal["parser", "vgg", "alex", "squeeze"]  # network of the perceptual distance
    frechet: Literal["parser", "inception", "inception_clean"]  # network of the Frechet distance; clean: by clean-fid
    external: str  # folder of weights from elsewhere; `make external` lists them


@dataclass(frozen=True)
class Scenes:
    height: Annotated[int, Within(16, 1024)]  # pixels; scenes are twice as wide
    seed: Annotated[int, Within(0, 2**31 - 1)]
    detection_train: Annotated[int, Within(1, 10**6)]
    detection_val: Annotated[int, Within(1, 10**6)]
    segmentation_train: Annotated[int, Within(1, 10**6)]
    segmentation_val: Annotated[int, Within(1, 10**6)]
    decision_train: Annotated[int, Within(1, 10**6)]
    decision_val: Annotated[int, Within(1, 10**6)]
    decision_test: Annotated[int, Within(1, 10**6)]


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
    blob_area: Annotated[float, Within(1e-5, 1)]  # squared half-axis of a blob of size 0, in squared picture heights
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


@dataclass(frozen=True)
class Search:
    mode: Literal["fast", "published"]  # published: step for step as OCTET's scripts, to compare with
    max_batch_pixels: Annotated[int | None, Within(1024, 2**31)]  # worked on at once; null: by the device


@dataclass(frozen=True)
class InvertSetup:
    steps: Annotated[int, Within(0, 10**5)]
    decision_steps: Annotated[int, Within(0, 10**5)]  # the last ones, which look at the decision too
    learning_rate: Annotated[float, Within(1e-6, 10)]
    size_lr_multiplier: Annotated[float, Within(1e-3, 1e3)]
    perceptual: Annotated[float, Within(0, 1e4)]
    l2: Annotated[float, Within(0, 1e4)]
    decision: Annotated[float, Within(0, 1e4)]
    blobs: Annotated[float, Within(0, 1e4)]


@dataclass(frozen=True)
class Invert:
    start: Literal["segments", "encoder"]  # where the search begins: at the parser's segments or the encoder's blobs
    source: Literal["real", "generated"]
    images: Annotated[int, Within(1, 10**6)]
    truncation: Annotated[float, Within(0, 1)]  # of generated pictures
    square: InvertSetup
    rect: InvertSetup


@dataclass(frozen=True)
class ExplainSetup:
    steps: Annotated[int, Within(1, 10**5)]  # at most
    learning_rate: Annotated[float, Within(1e-6, 10)]  # of all keys but sizes
    size_lr_multiplier: Annotated[float, Within(1e-3, 1e3)]
    lambda_prox: Annotated[float, Within(0, 1e3)]
    margin: Annotated[float, Within(0, 100)]  # logits past the border where a decision counts as flipped on the way
    patience: Annotated[int, Within(0, 10**5)]  # steps without a nearer flip, then the search ends
    bisections: Annotated[int, Within(0, 30)]  # of the way back from the flip to its border
    lambda_key: Annotated[dict[Key, float], Within(0, 1e4)]


@dataclass(frozen=True)
class ExplainVariant:
    keys: list[Key]
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
class Explain:
    decision: Literal["plain", "biased"]  # `blobex explain --decision` takes any model
    attributes: list[str]  # outputs in question, by name or number
    compose: Literal["photo", "full"]  # the change laid over the photo, or the whole picture rendered anew
    gate: Gate
    basic: ExplainVariant
    targeted: ExplainVariant
    diverse: ExplainVariant
    square: ExplainSetup
    rect: ExplainSetup

    def variant(self, name: str) -> ExplainVariant:
        """One of the variants by name; BlobexError if there is none of that name."""
        if name not in VARIANTS:
            raise BlobexError(f"unknown variant {name!r}: choose from {', '.join(VARIANTS)}")
        return {"basic": self.basic, "targeted": self.targeted, "diverse": self.diverse}[name]


@dataclass(frozen=True)
class Evaluate:
    generated_images: Annotated[int, Within(2, 10**6)]
    batch_size: Annotated[int, Within(1, 4096)]


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
    methods: list[Literal["ours", "published", "pixels", "random"]]
    images: Annotated[int, Within(1, 10**5)]
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
    images: Annotated[int, Within(4, 10**5)]
    published_images: Annotated[int, Within(1, 10**5)]  # the first of them, also explained the published way
    training_steps: Annotated[int, Within(1, 10**5)]


@dataclass(frozen=True)
class Report:
    pictures: Annotated[int, Within(1, 10**5)]  # of each setup whose explanations are shown; figures are of all


@dataclass(frozen=True)
class Range:
    """Where a sweep looks for a value."""

    low: float
    high: float
    log: bool  # on a logarithmic scale
    whole: bool  # whole numbers only


@dataclass(frozen=True)
class Sweep:
    trials: Annotated[int, Within(1, 10**5)]
    sampler: Literal["gp", "tpe", "random"]
    seed: Annotated[int, Within(0, 2**31 - 1)]
    pruner: Literal["wilcoxon", "median", "none"]  # of hopeless trials; none with mode pareto
    mode: Literal["single", "pareto"]  # one number under limits, or a front of several


@dataclass(frozen=True)
class SweepCf(Sweep):
    variant: str  # of explain
    images: Annotated[int, Within(1, 10**5)]
    held_out: Annotated[int, Within(1, 10**5)]  # other pictures, of the final comparison
    chunk: Annotated[int, Within(1, 10**5)]  # pictures between two chances to stop a hopeless trial
    flip_rate: Annotated[float, Within(0, 1)]  # at least
    seconds: Annotated[float | None, Within(0, 1e6)]  # per picture, at most; null: no limit
    blob_price: Annotated[float, Within(0, 100)]  # of each changed blob, in perceptual distance
    space: dict[
        Literal[
            "travel", "learning_rate", "steps", "size_lr_multiplier", "lambda_prox", "margin", "patience", "bisections"
        ],
        Range,
    ]  # travel: learning_rate * steps, in the place of learning_rate


@dataclass(frozen=True)
class SweepInvert(Sweep):
    images: Annotated[int, Within(1, 10**5)]
    held_out: Annotated[int, Within(1, 10**5)]  # other pictures, of the final comparison
    chunk: Annotated[int, Within(1, 10**5)]  # pictures between two chances to stop a hopeless trial
    agreement: Annotated[float, Within(0, 1)]  # of decisions about reconstructions, at least
    seconds: Annotated[float | None, Within(0, 1e6)]  # per picture, at most; null: no limit
    space: dict[
        Literal[
            "travel",
            "learning_rate",
            "steps",
            "decision_steps",
            "size_lr_multiplier",
            "perceptual",
            "l2",
            "decision",
            "blobs",
        ],
        Range,
    ]  # travel: learning_rate * steps, in the place of learning_rate


@dataclass(frozen=True)
class SweepEncoder(Sweep):
    steps: Annotated[int, Within(1, 10**7)]  # of each trial's training
    images: Annotated[int, Within(2, 10**5)]  # generated ones that measure a trial
    held_out: Annotated[int, Within(2, 10**5)]  # generated ones of the final comparison
    space: dict[Literal["learning_rate", "halvings"], Range]  # halvings: of the learning rate, in the whole training


@dataclass(frozen=True)
class Params:
    run: Run
    data: Data
    setups: Setups
    scenes: Scenes
    parser: Parser
    decision: Decision
    fid_stats: FidStats
    blobgan_pretrain: BlobganPretrain
    blobgan: Blobgan
    encoder_pretrain: EncoderPretrain
    encoder: Encoder
    search: Search
    invert: Invert
    explain: Explain
    evaluate: Evaluate
    truth: Truth
    bench: Bench
    report: Report
    sweep_cf: SweepCf
    sweep_invert: SweepInvert
    sweep_encoder: SweepEncoder

    def setup(self, name: str) -> Setup:
        """The picture size of the setup called `name`."""
        if name not in ("square", "rect"):
            raise BlobexError(f"unknown setup {name!r}: choose square or rect")
        return self.setups.square if name == "square" else self.setups.rect


def load(path: str | Path = "params.yaml") -> Params:
    """The parameters in a YAML file; BlobexError names the first key that is unknown, missing or out of range."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BlobexError(f"cannot read {path}: {error}; copy a file of profiles/ there") from error
    try:
        tree = yaml.load(text, Loader=_StrictLoader)
    except BlobexError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that cannot be
        raise BlobexError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse(Params, tree)


def parse(kind: type[T], tree: object, name: str = "") -> T:
    """A mapping read from YAML as the dataclass `kind`; `name` is the key's path in error messages."""
    return typing.cast(T, _parse(kind, tree, name))


def to_dict(params: Any) -> dict[str, Any]:
    """The nested mapping that `parse` reads back as the same dataclass."""
    return dataclasses.asdict(params)


def flatten(params: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key to leaf value, as experiment trackers want parameters."""
    flat: dict[str, Any] = {}
    for key, value in to_dict(params).items() if dataclasses.is_dataclass(params) else params.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


class _StrictLoader(yaml.SafeLoader):
    """YAML 1.2 floats (`1e-5` is a number), and repeated keys are errors."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated is not None:
            raise BlobexError(f"key {repeated!r} stands twice (line {node.start_mark.line + 1} on): keep one")
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(kind: Any, value: object, name: str, limits: Within | None = None) -> object:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(typing.cast(type, kind), value, name)
    if origin is Annotated:
        return _parse(arguments[0], value, name, arguments[1])
    if origin in (types.UnionType, typing.Union):  # only "kind or null"
        return None if value is None else _parse(arguments[0], value, name, limits)
    if origin is Literal:
        if value not in arguments:
            raise BlobexError(f"{name} is {value!r}: choose one of {', '.join(map(str, arguments))}")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise BlobexError(f"{name} is {value!r}: it must be a list")
        named = arguments[0] is str or typing.get_origin(arguments[0]) is Literal
        empty = not value and not isinstance(limits, MayBeEmpty)
        if named and (empty or any(value.count(item) > 1 for item in value)):
            raise BlobexError(f"{name} is {value!r}: list at least one, and none twice")
        return [_parse(arguments[0], item, f"{name}[{index}]", limits) for index, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise BlobexError(f"{name} is {value!r}: it must be a mapping")
        keys = [_parse(arguments[0], key, f"a key of {name}") for key in value]
        return {key: _parse(arguments[1], value[key], f"{name}.{key}", limits) for key in keys}
    return _parse_scalar(kind, value, name, limits)


def _parse_dataclass(kind: type, value: object, name: str) -> object:
    if not isinstance(value, dict):
        raise BlobexError(f"{name or 'params.yaml'} is {value!r}: it must be a mapping of keys")
    prefix = f"{name}." if name else ""
    keys = [item.name for item in dataclasses.fields(kind)]
    unknown = [str(key) for key in value if key not in keys]
    if unknown:
        raise BlobexError(f"unknown key {prefix}{unknown[0]}: the keys there are {', '.join(keys)}")
    missing = [key for key in keys if key not in value]
    if missing:
        raise BlobexError(f"missing key {prefix}{missing[0]}: add it (profiles/synthetic.yaml shows its place)")
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(**{key: _parse(hints[key], value[key], f"{prefix}{key}") for key in keys})


def _parse_scalar(kind: Any, value: object, name: str, limits: Within | None) -> object:
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (limits and not limits.minimum <= typing.cast(float, value) <= limits.maximum):
        raise BlobexError(f"{name} is {value!r}: it must be {words}{limits or ''}")
    return value
