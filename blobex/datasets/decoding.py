"""Decoding of many files to byte arrays of one shape, in order, with the reasons for files that are skipped."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from blobex.core.errors import BlobexError
from blobex.core.files import write_text

Size = tuple[int, int]  # rows, columns
AHEAD = 64  # files decoded at a time, which bounds the memory


@dataclass(frozen=True)
class Decoder:
    """Function from a file to bytes. Decoders that give other bytes have another name or shape."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[Path], tuple[np.ndarray, Size]]  # uint8 array of that shape, size of the image; or BlobexError


@dataclass(frozen=True)
class Skipped:
    path: Path
    reason: str


@dataclass(frozen=True)
class Outcome:
    """Files of a list that were read and skipped; the others were not needed."""

    found: int  # files in the list
    paths: list[Path]  # files read
    sizes: list[Size]  # of those, before they were cropped and resized
    skipped: list[Skipped]


@dataclass(frozen=True)
class DecodedImages(Outcome):
    images: Tensor  # uint8, one of the decoder's shape for each of `paths`


def collect(
    paths: Sequence[Path], decoder: Decoder, keep: Callable[[np.ndarray], object], skip: bool, limit: int | None
) -> Outcome:
    """Call `keep` with the bytes of each readable file in turn, up to `limit` files (None: all).

    Raises:
        BlobexError: if no file can be read, or, without `skip`, at the first file that cannot be read.
    """
    read: list[Path] = []
    sizes: list[Size] = []
    skipped: list[Skipped] = []
    for path, result in zip(paths, decode_each(paths, decoder), strict=False):
        if isinstance(result, BlobexError):
            if not skip:
                raise result
            skipped.append(Skipped(path, str(result)))
            continue
        keep(result[0])
        read.append(path)
        sizes.append(result[1])
        if len(read) == limit:
            break
    if not read:
        raise BlobexError(f"none of {len(paths)} files can be read; the first: {skipped[0].reason}")
    return Outcome(len(paths), read, sizes, skipped)


def decode(paths: Sequence[Path], decoder: Decoder, skip: bool = False, limit: int | None = None) -> DecodedImages:
    """Decode files into memory; see `collect`."""
    images = np.empty((min(len(paths), limit or len(paths)), *decoder.shape), dtype=np.uint8)
    free = iter(images)
    outcome = collect(paths, decoder, lambda array: np.copyto(next(free), array), skip, limit)
    return DecodedImages(**vars(outcome), images=torch.from_numpy(images[: len(outcome.paths)]))


def decode_each(paths: Sequence[Path], decoder: Decoder) -> Iterator[tuple[np.ndarray, Size] | BlobexError]:
    """Yield the result of `decoder.read`, or its error, for each file in order; uses several threads."""

    def attempt(path: Path) -> tuple[np.ndarray, Size] | BlobexError:
        try:
            return decoder.read(path)
        except BlobexError as error:
            return error

    bar = tqdm(total=len(paths), desc=f"reading {decoder.name}", unit="file", disable=None, leave=False)
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for start in range(0, len(paths), AHEAD):
            with warnings.catch_warnings():  # must enclose the threads to act on them
                warnings.simplefilter("ignore")
                done = list(pool.map(attempt, paths[start : start + AHEAD]))
            for result in done:
                bar.update()
                yield result


def write_report(path: Path, outcome: Outcome) -> str:
    """Write the counts and the reasons for skipped files as JSON; return the counts as one line of text."""
    read, skipped = len(outcome.paths), len(outcome.skipped)
    left = outcome.found - read - skipped
    reasons = [{"path": str(file.path), "reason": file.reason} for file in outcome.skipped]
    reasons.sort(key=lambda entry: entry["path"])
    content = {"found": outcome.found, "read": read, "not_needed": left, "skipped": reasons}
    write_text(path, json.dumps(content, indent=2) + "\n")
    numbers = f"{read:,} read, {skipped:,} skipped" + (f", {left:,} not needed" if left else "")
    return f"{outcome.found:,} files found: {numbers}; reasons in {path}"
