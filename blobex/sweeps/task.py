"""Interface between a sweep and the search or training that it tunes, and the timing of trials."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from blobex.config.sweeps import Range, Sweep

Number = int | float
Values = Mapping[str, Number]  # by the names of the search space
Settings = dict[str, Number]  # by the names of the parameters
Direction = Literal["minimize", "maximize"]
Directions = Mapping[str, Direction]  # by the names of objectives

SIGNIFICANT = 4  # digits of a tuned value, so that the value in a file is the one that was tried


@dataclass(frozen=True)
class Outcome:
    """Measurements of one trial."""

    loss: float  # minimised with a single objective
    measures: dict[str, float]  # also the objectives of mode pareto, by the names of the task's `directions`
    limits: dict[str, float]  # relative excess over each limit; at most 0 if the limit is kept
    stopped_after: int | None = None  # instances that were measured, if the trial was stopped early
    image: np.ndarray | None = None  # uint8 (H,W,3): the trial's best and worst result


class Report(Protocol):
    """Callback by which a trial reports its progress."""

    def __call__(self, losses: Mapping[int, float], late: bool = False, /) -> bool:
        """Report losses by instance, and whether the trial is far too slow; return True if it should stop."""


class Task(Protocol):
    """Search or training whose settings are tuned."""

    @property
    def section(self) -> str:
        """Section of the parameters; also the name of the MLflow experiment and of the folder of reports."""

    @property
    def setup(self) -> str: ...

    @property
    def options(self) -> Sweep: ...

    @property
    def space(self) -> Mapping[str, Range]: ...

    @property
    def directions(self) -> Directions:
        """Objectives of mode pareto."""

    def identity(self) -> dict[str, Any]:
        """Return everything that a trial's measurements depend on beside its settings, as JSON values."""

    def starts(self) -> dict[str, dict[str, Number]]:
        """Return the values of the first trials: "present", those of the parameters, and perhaps "published"."""

    def settings(self, values: Values) -> Settings:
        """Convert values of the search space to settings."""

    def keys(self, settings: Settings) -> dict[str, Number]:
        """Return the settings by their dotted keys in params.yaml."""

    def prepare(self) -> None:
        """Compute what all trials share."""

    def measure(self, settings: Settings, report: Report) -> Outcome:
        """Run a trial. Any exception makes the trial fail."""

    def again(self, settings: Settings) -> float:
        """Return the loss of a finalist on data of neither the trials nor the comparison."""

    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        """Measure candidates on held-out data, with the differences of "best" to each other candidate."""


def rounded(value: Number) -> Number:
    """Round to `SIGNIFICANT` digits."""
    return value if isinstance(value, int) else float(f"{value:.{SIGNIFICANT}g}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute with one thread, in a context or a decorated function.

    The time of a trial must not depend on the number of workers, and threads that wait for each other count as time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(device: torch.device) -> float:
    """Return a clock in seconds: CPU time of this process, which leaves other processes out, or wall-clock on a GPU."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()
