"""Files to bytes of one size: those that can be read, in their order, and why the others cannot."""

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
from blobex.core.files import whole_file

Size = tuple[int, int]  # rows, columns
AHEAD = 64  # files decoded at a time, so that results wait for their taker in bounded memory


@dataclass(frozen=True)
class Recipe:
    """How a file becomes bytes. Recipes whose bytes differ have another name or shape."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[Path], tuple[np.ndarray, Size]]  # uint8 array of that shape, size before; BlobexError if it cannot


@dataclass(frozen=True)
class Skipped:
    path: Path
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a list of files. Files that are neither read nor skipped were not needed."""

    found: int  # files in the list
    paths: list[Path]  # those read
    sizes: list[Size]  # of those, before they were cropped and resized
    skipped: list[Skipped]


@dataclass(frozen=True)
class Pictures(Outcome):
    images: Tensor  # uint8, one of the recipe's shape for each of `paths`


def collect(
    paths: Sequence[Path], recipe: Recipe, keep: Callable[[np.ndarray], object], skip: bool, limit: int | None
) -> Outcome:
    """Give `keep` the bytes of each file in turn, of the first `limit` that can be read (None: of all).

    A file that cannot be read is skipped, or, without `skip`, a BlobexError that names it; so is a list of which
    nothing can be read.
    """
    read: list[Path] = []
    sizes: list[Size] = []
    skipped: list[Skipped] = []
    for path, result in zip(paths, results(paths, recipe), strict=False):
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


def decode(paths: Sequence[Path], recipe: Recipe, skip: bool = False, limit: int | None = None) -> Pictures:
    """The files as `collect` finds them, in memory."""
    images = np.empty((min(len(paths), limit or len(paths)), *recipe.shape), dtype=np.uint8)
    free = iter(images)
    outcome = collect(paths, recipe, lambda array: np.copyto(next(free), array), skip, limit)
    return Pictures(**vars(outcome), images=torch.from_numpy(images[: len(outcome.paths)]))


def results(paths: Sequence[Path], recipe: Recipe) -> Iterator[tuple[np.ndarray, Size] | BlobexError]:
    """What `recipe.read` returns or raises for each file, in order; several at a time, with a bar on a terminal."""

    def attempt(path: Path) -> tuple[np.ndarray, Size] | BlobexError:
        try:
            return recipe.read(path)
        except BlobexError as error:
            return error

    bar = tqdm(total=len(paths), desc=f"reading {recipe.name}", unit="file", disable=None, leave=False)
    with ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        for start in range(0, len(paths), AHEAD):
            with warnings.catch_warnings():  # it serves all threads only if it stands outside of them
                warnings.simplefilter("ignore")
                done = list(pool.map(attempt, paths[start : start + AHEAD]))
            for result in done:
                bar.update()
                yield result


def write_report(path: Path, outcome: Outcome) -> str:
    """Write as JSON how many files were found, read and not needed, and which were skipped why; whole or not at all.

    Returns the numbers as one line for people.
    """
    read, skipped = len(outcome.paths), len(outcome.skipped)
    left = outcome.found - read - skipped
    reasons = [{"path": str(file.path), "reason": file.reason} for file in outcome.skipped]
    content = {
        "found": outcome.found,
        "read": read,
        "not_needed": left,
        "skipped": sorted(reasons, key=lambda entry: entry["path"]),
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    numbers = f"{read:,} read, {skipped:,} skipped" + (f", {left:,} not needed" if left else "")
    return f"{outcome.found:,} files found: {numbers}; reasons in {path}"
