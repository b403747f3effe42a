"""Keys of a blob layout that may change, and their plain names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from blobex.config.explain import Key
from blobex.core.errors import BlobexError

PLAIN_NAMES: dict[str, tuple[Key, ...]] = {
    "position": ("xs", "ys"),
    "size": ("sizes",),
    "shape": ("covs",),
    "appearance": ("features",),
    "style": ("spatial_style",),
}


def resolve_keys(names: Sequence[str]) -> tuple[str, ...]:
    """Return the keys that keys and plain names stand for, in the order of Key; BlobexError if one is unknown.

    >>> resolve_keys(["style", "position"])
    ('xs', 'ys', 'spatial_style')
    """
    keys = get_args(Key)
    unknown = [name for name in names if name not in keys and name not in PLAIN_NAMES]
    if unknown or not names:
        allowed = ", ".join([*PLAIN_NAMES, *keys])
        raise BlobexError(f"{f'unknown key {unknown[0]!r}' if unknown else 'no key to change'}: choose from {allowed}")
    chosen = {key for name in names for key in PLAIN_NAMES.get(name, (name,))}
    return tuple(key for key in keys if key in chosen)
