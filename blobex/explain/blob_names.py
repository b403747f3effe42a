"""Names of blobs: by the group of segments that each was trained on, where that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from blobex.core.errors import BlobexError
from blobex.networks.weights import read_config


def blob_names(models: Path, setup: str, blobs: int) -> tuple[str, ...]:
    """Return the names of the blobs of a setup's generator: such as "vehicle 3" after pretraining, else "blob 20"."""
    try:
        trained = read_config(models / "blobgan" / setup, "blobgan")
        slots = read_config(models / "blobgan_pretrain" / setup, "blobgan_pretrain").get("slots")
    except BlobexError:
        return plain_names(range(blobs))
    names = slot_names(slots) if trained.get("start") == "pretrained" and isinstance(slots, Mapping) else ()
    return names if len(names) == blobs else plain_names(range(blobs))


def slot_names(slots: Mapping[str, int]) -> tuple[str, ...]:
    """Return the names of the blobs of each group of segments, back to front.

    >>> slot_names({"lane": 1, "side_lane": 2})
    ('lane', 'side lane 1', 'side lane 2')
    """
    groups = [(group.replace("_", " "), count) for group, count in slots.items()]
    return tuple(f"{group} {n + 1}" if count > 1 else group for group, count in groups for n in range(count))


def plain_names(numbers: Iterable[int]) -> tuple[str, ...]:
    """Return names by number.

    >>> plain_names([0, 7])
    ('blob 0', 'blob 7')
    """
    return tuple(f"blob {number}" for number in numbers)
