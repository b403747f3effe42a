"""Types of parameter values that several sections share."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeVar

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


def _check_text(text: str) -> str:
    if re.search("[\0\ud800-\udfff]", text):
        raise ValueError("it must be a text without null characters and lone surrogates")
    return text


def _check_file_name(text: str) -> str:
    if not is_file_name(text):
        raise ValueError(f"it must be a name of {FILE_NAME_RULE}")
    return text


def _check_not_empty(items: list[T]) -> list[T]:
    if not items:
        raise ValueError("list at least one")
    return items


def _check_distinct(items: list[T]) -> list[T]:
    if any(item in items[:index] for index, item in enumerate(items)):
        raise ValueError("list none twice")
    return items


Shape = Literal["square", "rect"]
Variant = Literal["basic", "targeted", "diverse"]
# Strict: "3" and true are not numbers; an int is accepted as a float.
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Text = Annotated[str, Strict(), AfterValidator(_check_text)]
FileName = Annotated[Text, AfterValidator(_check_file_name)]
Distinct = Annotated[list[T], Strict(), AfterValidator(_check_distinct)]
Names = Annotated[Distinct[T], AfterValidator(_check_not_empty)]
Seed = Annotated[Int, Field(ge=0, le=2**31 - 1)]
Weight = Annotated[Float, Field(ge=0, le=1e4)]  # of a term of a loss
Width = Annotated[Int, Field(ge=1, le=2048)]  # channels of a layer
Widths = dict[Int, Width]  # of levels, by their heights
