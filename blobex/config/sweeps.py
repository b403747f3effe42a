"""Parameters of sweeps: where they look, how long, and what they must keep to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from blobex.config.limits import Within


@dataclass(frozen=True)
class Range:
    """Where a sweep looks for a value."""

    low: Annotated[float, Within(-1e12, 1e12)]
    high: Annotated[float, Within(-1e12, 1e12)]
    log: bool  # on a logarithmic scale
    whole: bool  # whole numbers only


@dataclass(frozen=True)
class Sweep:
    trials: Annotated[int, Within(1, 10**5)]  # in all, with those of earlier calls
    sampler: Literal["gp", "tpe", "random"]
    seed: Annotated[int, Within(0, 2**31 - 1)]  # of the sampler
    pruner: Literal["wilcoxon", "median", "none"]  # of hopeless trials; none with mode pareto
    mode: Literal["single", "pareto"]  # one number under limits, or a front of several
    finalists: Annotated[int, Within(1, 100)]  # best trials that are measured again to choose the best; 1: none is


@dataclass(frozen=True)
class SweepCf(Sweep):
    variants: list[Literal["basic", "targeted", "diverse"]]  # of explain, for pictures in turn
    questions: Literal["one", "all"]  # about each picture: one of explain.attributes, in turn, or all
    images: Annotated[int, Within(1, 10**5)]  # that measure a trial
    finals: Annotated[int, Within(1, 10**5)]  # other pictures, on which finalists are measured again
    held_out: Annotated[int, Within(1, 10**5)]  # other pictures, of the final comparison
    chunk: Annotated[int, Within(1, 10**5)]  # pictures between two chances to stop a hopeless trial
    flip_rate: Annotated[float, Within(0, 1)]  # at least
    seconds: Annotated[float | None, Within(0, 1e6)]  # per square picture; null: no limit
    blob_price: Annotated[float, Within(0, 100)]  # of each changed blob, in perceptual distance
    space: dict[
        Literal[
            "travel", "learning_rate", "steps", "size_lr_multiplier", "lambda_prox", "margin", "patience", "bisections"
        ],
        Range,
    ]  # travel: learning_rate * steps, in the place of learning_rate


@dataclass(frozen=True)
class SweepInvert(Sweep):
    images: Annotated[int, Within(1, 10**5)]  # that measure a trial
    finals: Annotated[int, Within(1, 10**5)]  # other pictures, on which finalists are measured again
    held_out: Annotated[int, Within(1, 10**5)]  # other pictures, of the final comparison
    chunk: Annotated[int, Within(1, 10**5)]  # pictures between two chances to stop a hopeless trial
    agreement: Annotated[float, Within(0, 1)]  # of decisions about reconstructions, at least
    seconds: Annotated[float | None, Within(0, 1e6)]  # per square picture; null: no limit
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
