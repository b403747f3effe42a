"""Steps back from a counterfactual to its query, and which changes the decision needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One change undone, besides those of the steps before."""

    blob: int | None  # number from 0; None: the background
    score: float  # of the output in question, afterwards
    flipped: bool  # the decision wanted is still made

    def as_dict(self) -> dict[str, Any]:
        """Convert to JSON."""
        return asdict(self)


def needed(steps: Sequence[Step]) -> list[int | None]:
    """Return the blobs whose changes remain when the last one that can be spared is undone.

    >>> needed([Step(3, 0.9, True), Step(None, 0.4, False), Step(1, 0.1, False)])
    [None, 1]
    """
    spared = next((number for number, step in enumerate(steps) if not step.flipped), len(steps))
    return [step.blob for step in steps[spared:]]
