"""Ranges of numbers that an output of a regression is asked to reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from blobex.core.errors import BlobexError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, which may be infinite."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def words(self, name: str) -> str:
        """Describe the range of an output.

        >>> Range(0.5, math.inf).words("brake"), Range(-0.1, 0.1).words("steering")
        ('brake >= 0.5', 'steering from -0.1 to 0.1')
        """
        if math.isinf(self.high):
            return f"{name} >= {self.low:g}"
        return f"{name} <= {self.high:g}" if math.isinf(self.low) else f"{name} from {self.low:g} to {self.high:g}"


def asked_range(at_least: float | None, at_most: float | None, between: Sequence[float] | None) -> Range | None:
    """Return the range that is asked for; None if none is.

    Raises BlobexError if several are, or one is empty or not of finite numbers.
    """
    given = {"at_least": at_least, "at_most": at_most, "between": between}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise BlobexError(f"both {names[0]} and {names[1]} are given: give one, or between with two numbers")
    if not names:
        return None
    if between is not None and len(between) != 2:
        raise BlobexError(f"between {tuple(between)}: give two numbers, such as 0.2 and 0.4")
    low, high = (at_least, at_most) if between is None else between
    if not all(math.isfinite(number) for number in (low, high) if number is not None):
        raise BlobexError(f"{names[0]} {given[names[0]]}: give finite numbers")
    wanted = Range(-math.inf if low is None else float(low), math.inf if high is None else float(high))
    if not wanted.low < wanted.high:
        raise BlobexError(f"between {low:g} and {high:g}: give the smaller number first")
    return wanted
