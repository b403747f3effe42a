"""Images to explain: from files, folders and arrays, and with their inversions."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from blobex.core.device import Ranks
from blobex.core.errors import BlobexError
from blobex.datasets.images import fit, list_images, load_image, name_of, to_float, to_tensor
from blobex.inversion.inversion import Inversion

Image = str | Path | np.ndarray


@dataclass(frozen=True)
class ImageShare:
    """Names of all images, and the images that this process explains."""

    names: Sequence[str]
    numbers: Tensor  # n: positions of this process's images in `names`
    queries: Tensor  # n,3,H,W in [-1,1]

    @classmethod
    def of(cls, names: Sequence[str], queries: Tensor, ranks: Ranks) -> ImageShare:
        """Return this process's share of N images with `queries` (N,3,H,W)."""
        numbers = torch.arange(ranks.rank, len(names), ranks.size)
        return cls(names, numbers, queries[numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def named(self, rows: Tensor) -> list[str]:
        """Return the names of this process's images `rows` (m,)."""
        return [self.names[number] for number in self.numbers[rows].tolist()]


@dataclass(frozen=True)
class InvertedImages:
    """A batch of N images with their inversions."""

    names: Sequence[str]
    queries: Tensor  # N,3,H,W in [-1,1]
    inversion: Inversion

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> InvertedImages:
        """Return the batch on another device."""
        return InvertedImages(self.names, self.queries.to(device), self.inversion.to(device))


def load_images(images: Image | Sequence[Image], height: int, width: int, ranks: Ranks) -> ImageShare:
    """Load this process's share of files, folders or uint8 arrays (H,W) or (H,W,3), cropped centrally and resized.

    Arrays are named array_0, array_1, ... Unreadable files of folders are skipped with a line on stderr.

    Raises:
        BlobexError: There is no image, a file cannot be read, no file of a folder can be read, or an array has
            another type or shape.
    """
    single = isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim < 4)
    listed = [cast(Image, images)] if single else cast(Sequence[Image], images)
    sources = [source for image in listed for source in _files(image)]
    if not sources:
        raise BlobexError("no images to explain: give at least one")
    loaded = {}
    for number in filter(ranks.has, range(len(sources))):
        image, folder = sources[number]
        try:
            array = _rgb(image) if isinstance(image, np.ndarray) else load_image(image)
        except BlobexError as error:
            if folder is None:
                raise
            print(f"blobex: skipped: {error}", file=sys.stderr)
        else:
            loaded[number] = to_tensor(fit(array, height, width))
    readable = sorted(ranks.gather(list(loaded))) if any(folder for _, folder in sources) else range(len(sources))
    for empty in {folder for _, folder in sources} - {sources[number][1] for number in readable} - {None}:
        count = sum(folder == empty for _, folder in sources)
        raise BlobexError(f"none of the {count} images in {empty} can be read: give others")
    names = [f"array_{n}" if isinstance(item, np.ndarray) else name_of(item) for n, (item, _) in enumerate(sources)]
    position = {number: position for position, number in enumerate(readable)}
    return ImageShare(
        names=[names[number] for number in readable],
        numbers=torch.tensor([position[number] for number in loaded], dtype=torch.long),
        queries=to_float(torch.stack(list(loaded.values())) if loaded else torch.empty(0, 3, height, width)),
    )


def _files(image: Image) -> Iterator[tuple[Image, Path | None]]:
    """Yield the image, or the files of a folder, each with its folder."""
    folder = None if isinstance(image, np.ndarray) else Path(image)
    if folder is not None and folder.is_dir():
        yield from ((file, folder) for file in list_images(folder))
    else:
        yield image, None


def _rgb(array: np.ndarray) -> np.ndarray:
    """Return (H,W) or (H,W,3) uint8 as (H,W,3)."""
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise BlobexError(f"an image array must be uint8 (H,W) or (H,W,3), not {array.dtype} {array.shape}: convert it")
    return array
