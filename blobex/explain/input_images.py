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
from blobex.datasets.images import crop_box, fit, list_images, load_image, name_of, to_float, to_tensor
from blobex.inversion.inversion import Inversion

Image = str | Path | np.ndarray
SMALLEST = 2  # an image may be enlarged up to this factor
LEAST_SHARE = 0.2  # of an image that must remain when it is cropped
ONE_COLOUR = (
    8  # grey levels between the darkest and the brightest pixel of each channel, as JPEG leaves in a flat image
)


@dataclass(frozen=True)
class ImageShare:
    """Names of all images, and the images that this process explains."""

    names: Sequence[str]
    numbers: Tensor  # n: positions of this process's images in `names`
    queries: Tensor  # n,3,H,W in [-1,1]
    doubts: Sequence[str] = ()  # n: what is wrong with each, see `doubt`; (): nothing is known
    originals: Sequence[Image] = ()  # n: file or array of each; (): unknown

    @classmethod
    def of(cls, names: Sequence[str], queries: Tensor, ranks: Ranks) -> ImageShare:
        """Return this process's share of N images with `queries` (N,3,H,W)."""
        numbers = torch.arange(ranks.rank, len(names), ranks.size)
        return cls(names, numbers, queries[numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    def doubt(self, row: int) -> str:
        """Return what is wrong with image `row` of this process; empty: nothing."""
        return self.doubts[row] if self.doubts else ""

    def original(self, row: int) -> Image | None:
        """Return the file or array of image `row` of this process; None: it is unknown."""
        return self.originals[row] if self.originals else None

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
    loaded, doubts = {}, []
    for number in filter(ranks.has, range(len(sources))):
        image, folder = sources[number]
        try:
            array = _rgb(image) if isinstance(image, np.ndarray) else load_image(image)
        except BlobexError as error:
            if folder is None:
                raise
            print(f"blobex: skipped: {error}", file=sys.stderr)
        else:
            fitted = fit(array, height, width)
            loaded[number] = to_tensor(fitted)
            doubts.append(doubt(array.shape[:2], fitted))
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
        doubts=doubts,
        originals=[sources[number][0] for number in loaded],
    )


def doubt(size: tuple[int, int], fitted: np.ndarray) -> str:
    """Return why an image of `size` (rows, columns) can show no road scene; empty if nothing is wrong with it.

    Args:
        fitted: The image, cropped and resized: (H,W,3) uint8.

    >>> doubt((1, 1), np.zeros((64, 128, 3), np.uint8))
    'the image is too small (1 x 1 pixels for 128 x 64) and of one colour'
    """
    (rows, columns), (height, width) = size, fitted.shape[:2]
    left, top, right, bottom = crop_box(rows, columns, height, width)
    share = (right - left) * (bottom - top) / (rows * columns)
    reasons = []
    if share < LEAST_SHARE:
        shape = "wide" if columns * height > rows * width else "tall"
        reasons.append(f"too {shape} ({columns} x {rows} pixels, of which {share:.1%} are seen)")
    if (bottom - top) * SMALLEST < height:
        reasons.append(f"too small ({right - left} x {bottom - top} pixels for {width} x {height})")
    if np.ptp(fitted.reshape(-1, 3), axis=0).max() <= ONE_COLOUR:
        reasons.append("of one colour")
    return f"the image is {' and '.join(reasons)}" if reasons else ""


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
