"""Types of parameter values that several sections share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, Strict

T = TypeVar("T")
SECTION = ConfigDict(extra="forbid")  # unknown keys are errors
FILE_NAME_RULE = "at most 50 letters, digits and . _ + -, beginning with a letter, a digit or _"


def is_file_name(text: str) -> bool:
    """Return whether `text` can name a file or folder and cannot lead out of the folder that holds it.

    >>> is_file_name("scenes_64"), is_file_name("../scenes")
    (True, False)
    """
    return re.fullmatch(r"\w[\w.+-]{0,49}", text) is not None


def _require(holds: Callable[[Any], bool], rule: str) -> AfterValidator:
    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(rule)
        return value

    return AfterValidator(check)


Shape = Literal["square", "rect"]
Variant = Literal["basic", "targeted", "diverse"]
# Strict: "3" and true are not numbers; an int is accepted as a float.
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Text = Annotated[
    str,
    Strict(),
    _require(
        lambda text: not re.search("[\0\ud800-\udfff]", text),
        "it must be a text without null characters and lone surrogates",
    ),
]
FileName = Annotated[Text, _require(is_file_name, f"it must be a name of {FILE_NAME_RULE}")]
Distinct = Annotated[
    list[T], Strict(), _require(lambda items: all(items.count(item) == 1 for item in items), "list none twice")
]
Names = Annotated[Distinct[T], _require(bool, "list at least one")]
Seed = Annotated[Int, Field(ge=0, le=2**31 - 1)]
Weight = Annotated[Float, Field(ge=0, le=1e4)]  # of a term of a loss
Width = Annotated[Int, Field(ge=1, le=2048)]  # channels of a layer
Widths = dict[Int, Width]  # of levels, by their heights
