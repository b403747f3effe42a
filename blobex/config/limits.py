"""What a parameter may be: its range, and the names that several sections share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

Shape = Literal["square", "rect"]


@dataclass(frozen=True)
class Within:
    """The allowed range, ends included, of a number or of each number of a list or mapping.

    >>> f"a number{Within(0, 1)}"
    'a number from 0 to 1'
    """

    minimum: float
    maximum: float

    def allows(self, value: Any) -> bool:
        return bool(self.minimum <= value <= self.maximum)

    def __str__(self) -> str:
        return f" from {self.minimum:g} to {self.maximum:g}"


@dataclass(frozen=True)
class FileName:
    """Of a text: it names a file or folder, and never leads out of the place where that belongs."""

    def allows(self, value: Any) -> bool:
        return re.fullmatch(r"\w[\w.+-]{0,49}", value) is not None

    def __str__(self) -> str:
        return " that can name a file: at most 50 letters, digits, and . _ + - within"


@dataclass(frozen=True)
class MayBeEmpty:
    """Of a list: it may name nothing."""

    def allows(self, value: Any) -> bool:
        return True

    def __str__(self) -> str:
        return ""
