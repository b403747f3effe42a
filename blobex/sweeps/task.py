"""What a sweep wants of the thing that it tunes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from blobex.config.sweeps import Range, Sweep

Number = int | float
Values = Mapping[str, Number]  # by the names of the search space
Settings = dict[str, Number]  # by their names in the parameters

SIGNIFICANT = 4  # digits of a tuned value: what stands in a file is what was tried


@dataclass(frozen=True)
class Outcome:
    """What a trial achieved."""

    loss: float  # what a single objective makes small
    measures: dict[str, float]  # all that is told of it
    limits: dict[str, float]  # by what share of itself a limit is missed; at most 0: it is kept
    objectives: dict[str, float]  # what mode pareto looks at; the names are the task's `directions`
    stopped_after: int | None = None  # instances, if it was hopeless; all else is of these alone
    picture: np.ndarray | None = None  # uint8 (H,W,3): its best and its worst


class Report(Protocol):
    """Is told how a trial goes."""

    def __call__(self, losses: Mapping[int, float], late: bool = False, /) -> bool:
        """Whether the trial is hopeless and should stop, after these losses by instance; `late`: it is far too slow."""


class Task(Protocol):
    """Something with knobs, which can be tried and measured."""

    @property
    def section(self) -> str:
        """Of the parameters; the MLflow experiment and the folder of reports have its name."""

    @property
    def setup(self) -> str: ...

    @property
    def options(self) -> Sweep: ...

    @property
    def space(self) -> Mapping[str, Range]: ...

    @property
    def directions(self) -> Mapping[str, Literal["minimize", "maximize"]]:
        """The objectives of mode pareto."""

    def identity(self) -> dict[str, Any]:
        """All that a trial's figures depend on beside its settings, as JSON holds it."""

    def starts(self) -> dict[str, dict[str, Number]]:
        """Values to try first, by name: "present", which stand in the parameters, and perhaps "published"."""

    def settings(self, values: Values) -> Settings:
        """The settings that values of the search space stand for."""

    def keys(self, settings: Settings) -> dict[str, Number]:
        """The settings by their dotted keys in params.yaml."""

    def prepare(self) -> None:
        """Compute what all trials share, once."""

    def measure(self, settings: Settings, report: Report) -> Outcome:
        """Try settings, telling `report` how it goes. Any exception is the trial's failure."""

    def again(self, settings: Settings) -> float:
        """The loss of settings on what no trial saw, and no comparison will."""

    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        """Measures of each candidate on what no trial saw, and differences of "best" to each other one."""


def rounded(value: Number) -> Number:
    """A number that is short to write."""
    return value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT}g}")
