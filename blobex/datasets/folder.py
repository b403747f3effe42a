"""A folder of any pictures, without labels."""

from __future__ import annotations

from pathlib import Path

from blobex.core.errors import BlobexError
from blobex.datasets.images import list_images

VAL_EVERY = 10  # of a folder that is not split, every tenth picture is for validation


def folder_images(root: str | Path, split: str) -> list[Path]:
    """The files of split "train" or "val" that end like pictures, sorted; what can be read does not change the split.

    A folder may hold folders `train` and `val`; of any other, every tenth picture is for validation. BlobexError: the
    split is another, or it would be empty.
    """
    root = Path(root)
    if split not in ("train", "val"):
        raise BlobexError(f"a folder of pictures has no split {split!r}: choose train or val")
    if (root / "train").is_dir() and (root / "val").is_dir():
        return list_images(root / split)
    paths = list_images(root)
    if len(paths) < VAL_EVERY:
        raise BlobexError(f"{root} holds {len(paths)} pictures: give at least {VAL_EVERY}, or folders train and val")
    return [path for number, path in enumerate(paths, 1) if (number % VAL_EVERY == 0) == (split == "val")]
