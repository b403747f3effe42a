"""What a parameter may be: its range, and the names that several sections share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shape = Literal["square", "rect"]


@dataclass(frozen=True)
class Within:
    """The allowed range, ends included, of a number or of each number of a list or mapping.

    >>> f"a number{Within(0, 1)}"
    'a number from 0 to 1'
    """

    minimum: float
    maximum: float

    def __str__(self) -> str:
        return f" from {self.minimum:g} to {self.maximum:g}"


@dataclass(frozen=True)
class MayBeEmpty:
    """Of a list: it may name nothing."""
