"""The pictures that a command line names."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blobex.core.errors import BlobexError

if TYPE_CHECKING:
    from blobex.core.ranks import Ranks


def listed(photos: Sequence[Path], ranks: Ranks) -> list[Path]:
    """The pictures that were named, and those of folders that were."""
    return [file for photo in photos for file in (_readable(photo, ranks) if photo.is_dir() else [photo])]


def _readable(folder: Path, ranks: Ranks) -> list[Path]:
    """The pictures of a folder; what cannot be read is told and left out. Of several ranks each reads its share."""
    from blobex.datasets.images import list_images, load_image

    found, readable = list_images(folder), []
    for number in filter(ranks.has, range(len(found))):
        try:
            load_image(found[number])
            readable.append(number)
        except BlobexError as error:
            print(f"blobex: skipped: {error}", file=sys.stderr)
    files = [found[number] for number in sorted(ranks.gather(readable))]
    if not files:
        raise BlobexError(f"none of the {len(found)} pictures in {folder} can be read: give others")
    return files
