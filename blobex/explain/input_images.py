"""Images to explain: from files, folders and arrays, and with their inversions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
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

FOREIGN = "the image shows no road scene of the kind that the networks know"
Image = str | Path | np.ndarray
SMALLEST = 2  # an image may be enlarged up to this factor
LEAST_SHARE = 0.2  # of an image that must remain when it is cropped
ONE_COLOUR = (
    8  # grey levels between the darkest and the brightest pixel of each channel, as JPEG leaves in a flat image
)


@dataclass(frozen=True)
class ImageShare:
    """Some of the images to explain."""

    names: Sequence[str]  # n
    numbers: Tensor  # n: their positions among all images
    queries: Tensor  # n,3,H,W in [-1,1]
    doubts: Sequence[str] = ()  # n: what is wrong with each, see `doubt`; (): nothing is known
    originals: Sequence[Image] = ()  # n: file or array of each; (): unknown

    @classmethod
    def of(cls, names: Sequence[str], queries: Tensor, ranks: Ranks) -> ImageShare:
        """Return this process's share of N images with `queries` (N,3,H,W)."""
        numbers = torch.arange(ranks.rank, len(names), ranks.size)
        return cls([names[number] for number in numbers.tolist()], numbers, queries[numbers])

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def numbered(self) -> list[tuple[int, str]]:
        """Number and name of each image."""
        return list(zip(self.numbers.tolist(), self.names, strict=True))

    def doubt(self, row: int) -> str:
        """Return what is wrong with image `row`; empty: nothing."""
        return self.doubts[row] if self.doubts else ""

    def original(self, row: int) -> Image | None:
        """Return the file or array of image `row` of this process; None: it is unknown."""
        return self.originals[row] if self.originals else None

    def named(self, rows: Tensor) -> list[str]:
        """Return the names of the images `rows` (m,)."""
        return [self.names[row] for row in rows.tolist()]


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


@dataclass(frozen=True)
class Sources:
    """All images to explain in their order, not yet decoded."""

    images: Sequence[Image]
    folders: Sequence[Path | None]  # folder that each was listed in; None: it was given by itself

    @classmethod
    def of(cls, images: Image | Sequence[Image]) -> Sources:
        """List files, the files of folders, and uint8 arrays (H,W) or (H,W,3).

        Raises:
            BlobexError: There is no image, or a named file is missing.
        """
        single = isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim < 4)
        listed = [cast(Image, images)] if single else cast(Sequence[Image], images)
        sources = [source for image in listed for source in _files(image)]
        if not sources:
            raise BlobexError("no images to explain: give at least one")
        for image, folder in sources:
            if folder is None and not isinstance(image, np.ndarray) and not Path(image).is_file():
                raise BlobexError(f"there is no image {image}: check the path")
        return cls([image for image, _ in sources], [folder for _, folder in sources])

    def __len__(self) -> int:
        return len(self.images)

    def name(self, number: int) -> str:
        """Return the name of an image; arrays are array_0, array_1, ..."""
        image = self.images[number]
        return f"array_{number}" if isinstance(image, np.ndarray) else name_of(image)

    def names(self) -> Iterator[str]:
        """Yield the names of all images."""
        return map(self.name, range(len(self)))

    def load(
        self, numbers: Sequence[int], height: int, width: int, foreign: Callable[[Tensor], list[bool]] | None = None
    ) -> ImageShare:
        """Load images, cropped centrally and resized. Unreadable files of folders are left out with a line on stderr.

        `foreign` tells of images (n,3,height,width) which show no road scene; None: that is not asked.

        Raises:
            BlobexError: A named file cannot be read, or an array has another type or shape.
        """
        loaded, doubts = {}, []
        for number in numbers:
            image = self.images[number]
            try:
                array = _rgb(image) if isinstance(image, np.ndarray) else load_image(image)
            except BlobexError as error:
                if self.folders[number] is None:
                    raise
                print(f"blobex: skipped: {error}", file=sys.stderr)
            else:
                fitted = fit(array, height, width)
                loaded[number] = to_tensor(fitted)
                doubts.append(doubt(array.shape[:2], fitted))
        queries = to_float(torch.stack(list(loaded.values())) if loaded else torch.empty(0, 3, height, width))
        if foreign is not None:
            doubts = [known or (FOREIGN if odd else "") for known, odd in zip(doubts, foreign(queries), strict=True)]
        return ImageShare(
            names=[self.name(number) for number in loaded],
            numbers=torch.tensor(list(loaded), dtype=torch.long),
            queries=queries,
            doubts=doubts,
            originals=[self.images[number] for number in loaded],
        )

    def check_readable(self, numbers: Sequence[int]) -> None:
        """Raise BlobexError if there is a folder without an image among `numbers`, those that were read."""
        for empty in {*self.folders} - {self.folders[number] for number in numbers} - {None}:
            count = sum(folder == empty for folder in self.folders)
            raise BlobexError(f"none of the {count} images in {empty} can be read: give others")


def load_images(images: Image | Sequence[Image], height: int, width: int) -> ImageShare:
    """Load all images; see `Sources` for the kinds and the errors. Folders without a readable image are errors too."""
    sources = Sources.of(images)
    loaded = sources.load(range(len(sources)), height, width)
    sources.check_readable(loaded.numbers.tolist())
    return loaded


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
