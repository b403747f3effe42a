"""Folders of unlabelled images."""

from __future__ import annotations

from pathlib import Path

from blobex.core.errors import BlobexError
from blobex.datasets.images import list_images

VAL_EVERY = 10  # in a folder without train and val, every tenth image is for validation


def folder_images(root: str | Path, split: str) -> list[Path]:
    """List the image files of split "train" or "val", sorted; the split does not depend on which can be read.

    Raises:
        BlobexError: if the split is unknown or would be empty.
    """
    root = Path(root)
    if split not in ("train", "val"):
        raise BlobexError(f"a folder of images has no split {split!r}: choose train or val")
    if (root / "train").is_dir() and (root / "val").is_dir():
        return list_images(root / split)
    paths = list_images(root)
    if len(paths) < VAL_EVERY:
        raise BlobexError(f"{root} holds {len(paths)} images: give at least {VAL_EVERY}, or folders train and val")
    return [path for number, path in enumerate(paths, 1) if (number % VAL_EVERY == 0) == (split == "val")]
