"""The search space: ranges that hold the values that a study begins with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from blobex.config.sweeps import Range
from blobex.core.errors import BlobexError
from blobex.sweeps.task import Number


def checked(space: Mapping[str, Range], section: str) -> dict[str, Range]:
    """The space as it is; BlobexError: a range is empty, or logarithmic and not above 0, or a coupling is doubled."""
    if not space:
        raise BlobexError(f"{section}.space is empty: name at least one value to look for")
    for name, each in space.items():
        if each.low >= each.high:
            raise BlobexError(f"{section}.space.{name} goes from {each.low:g} to {each.high:g}: low must be below high")
        if each.log and each.low <= 0:
            raise BlobexError(f"{section}.space.{name} is logarithmic, so low must be above 0")
        if each.whole and (each.low % 1 or each.high % 1):
            raise BlobexError(f"{section}.space.{name} is of whole numbers, so low and high must be such")
    if {"travel", "learning_rate"} <= set(space):
        raise BlobexError(f"{section}.space has travel, which is learning_rate * steps: leave learning_rate out")
    return dict(space)


def widened(space: Mapping[str, Range], starts: Mapping[str, Mapping[str, Number]]) -> dict[str, Range]:
    """The space with ranges as wide as the values to begin with need; a logarithmic one cannot reach down to 0."""
    wide = {}
    for name, each in space.items():
        values = [float(start[name]) for start in starts.values() if not (each.log and start[name] <= 0)]
        wide[name] = dataclasses.replace(each, low=min([each.low, *values]), high=max([each.high, *values]))
    return wide


def inside(space: Mapping[str, Range], values: Mapping[str, Number]) -> dict[str, Number]:
    """The values of the space's names, each moved to the end of its range if it lies beyond."""
    found = {name: min(max(values[name], each.low), each.high) for name, each in space.items()}
    return {name: round(value) if space[name].whole else float(value) for name, value in found.items()}


def to_json(space: Mapping[str, Range]) -> dict[str, Any]:
    return {name: dataclasses.asdict(each) for name, each in space.items()}


def from_json(tree: Mapping[str, Any]) -> dict[str, Range]:
    return {name: Range(**each) for name, each in tree.items()}
