"""Search space of a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from blobex.config.sweeps import Range
from blobex.core.errors import BlobexError
from blobex.sweeps.task import Number


def checked(space: Mapping[str, Range], section: str) -> dict[str, Range]:
    """Return the space; raise BlobexError if a range is empty or if two entries of it depend on each other."""
    if not space:
        raise BlobexError(f"{section}.space is empty: name at least one value to look for")
    for name, entry in space.items():
        if entry.low >= entry.high:
            raise BlobexError(
                f"{section}.space.{name} goes from {entry.low:g} to {entry.high:g}: low must be below high"
            )
        if entry.log and entry.low <= 0:
            raise BlobexError(f"{section}.space.{name} is logarithmic, so low must be above 0")
        if entry.whole and (entry.low % 1 or entry.high % 1):
            raise BlobexError(f"{section}.space.{name} is of whole numbers, so low and high must be such")
    if {"travel", "learning_rate"} <= set(space):
        raise BlobexError(f"{section}.space has travel, which is learning_rate * steps: leave learning_rate out")
    return dict(space)


def widened(space: Mapping[str, Range], starts: Mapping[str, Mapping[str, Number]]) -> dict[str, Range]:
    """Widen the ranges to hold the starting values; a logarithmic range is not widened to 0."""
    wide = {}
    for name, entry in space.items():
        values = [float(start[name]) for start in starts.values() if not (entry.log and start[name] <= 0)]
        wide[name] = dataclasses.replace(entry, low=min([entry.low, *values]), high=max([entry.high, *values]))
    return wide


def clamped(space: Mapping[str, Range], values: Mapping[str, Number]) -> dict[str, Number]:
    """Clamp values to their ranges."""
    inside = {name: min(max(values[name], entry.low), entry.high) for name, entry in space.items()}
    return {name: round(value) if space[name].whole else float(value) for name, value in inside.items()}


def to_json(space: Mapping[str, Range]) -> dict[str, Any]:
    return {name: dataclasses.asdict(entry) for name, entry in space.items()}


def from_json(tree: Mapping[str, Any]) -> dict[str, Range]:
    return {name: Range(**entry) for name, entry in tree.items()}
