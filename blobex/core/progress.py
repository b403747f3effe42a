"""Progress of long computations: phases that report their steps to a listener, or else draw a bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

INTERVAL = 0.1  # seconds between two reports of a phase


@dataclass(frozen=True)
class Phase:
    """State of one phase, such as the inversion of 4 images."""

    title: str
    total: int  # problems
    steps: int  # most steps of a problem; 0: unknown
    done: int = 0  # finished problems
    step: int = 0  # of the problems in work
    score: float | None = None  # their mean loss or margin
    finished: bool = False

    @property
    def share(self) -> float:
        """Share of the work that is done at least, 0 to 1."""
        if self.finished or not self.total:
            return 1.0
        begun = min(self.step / self.steps, 1.0) if self.steps else 0.0
        return min((self.done + begun * (self.total - self.done)) / self.total, 1.0)


Listener = Callable[[Phase], None]
Report = Callable[[int, Mapping[str, Any]], None]  # problems finished now, and the state of those in work
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Report all phases within the block to `listener`: at their start and end, and about ten times a second."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def phase(title: str, total: int, steps: int = 0) -> Iterator[Report]:
    """Yield a function to call after each step of `total` problems of at most `steps` steps.

    Of the state of the problems in work it reads, where present and only for a listener, `iteration`, and the means of
    `margin` or else `loss`.
    """
    listener = _LISTENER.get()
    if listener is None:
        from tqdm import tqdm

        with tqdm(total=total, desc=title, disable=None, leave=False) as bar:
            yield lambda done, state: bar.update(done) and None
        return
    current, last = Phase(title, total, steps), 0.0
    listener(current)

    def report(done: int, state: Mapping[str, Any]) -> None:
        nonlocal current, last
        current, now = replace(current, done=current.done + done), time.monotonic()
        if now - last >= INTERVAL:
            last, score = now, state.get("margin", state.get("loss"))
            step = int(state["iteration"].min()) if len(state.get("iteration", ())) else current.step
            mean = None if score is None or not len(score) else float(score.float().mean())
            current = replace(current, step=step, score=mean)
            listener(current)

    yield report
    listener(replace(current, finished=True))
