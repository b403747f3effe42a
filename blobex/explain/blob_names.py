"""What blobs are called: by what each was trained to stand for, where that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from blobex.core.errors import BlobexError
from blobex.networks.weights import read_config


def blob_names(models: Path, setup: str, blobs: int) -> tuple[str, ...]:
    """Names of the K blobs of a setup's generator: "vehicle 3" where its pretraining gave it slots, else "blob 20"."""
    try:
        trained = read_config(models / "blobgan" / setup, "blobgan")
        slots = read_config(models / "blobgan_pretrain" / setup, "blobgan_pretrain").get("slots")
    except BlobexError:
        return plain_names(range(blobs))
    named = slot_names(slots) if trained.get("start") == "pretrained" and isinstance(slots, Mapping) else ()
    return named if len(named) == blobs else plain_names(range(blobs))


def slot_names(slots: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the blobs of each group of segments, the hindmost first.

    >>> slot_names({"lane": 1, "side_lane": 2})
    ('lane', 'side lane 1', 'side lane 2')
    """
    plain = [(group.replace("_", " "), count) for group, count in slots.items()]
    return tuple(f"{group} {n + 1}" if count > 1 else group for group, count in plain for n in range(count))


def plain_names(numbers: Iterable[int]) -> tuple[str, ...]:
    """Names that say nothing but the number.

    >>> plain_names([0, 7])
    ('blob 0', 'blob 7')
    """
    return tuple(f"blob {number}" for number in numbers)
