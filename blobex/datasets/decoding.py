"""Decoding of many files to byte arrays of one shape, in order, in memory or through a cache on disk.

An entry of the cache is two files, named after a hash of its sources: `<key>.bin` holds the bytes and is mapped into
memory, `<key>.json` holds their description.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_file, write_text
from blobex.core.processes import locked
from blobex.datasets.images import name_of

Size = tuple[int, int]  # rows, columns
VERSION = 1  # of the decoding: change it when the same file is to give other bytes
NAME = re.compile(r"\.?([0-9a-f]{32})\.(bin|json)(\.part)?")  # files of the cache; others are left alone
MAP_NORESERVE = 0x4000  # of Linux, which otherwise refuses a private map larger than memory
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

    Raises BlobexError if no file can be read, or, without `skip`, at the first file that cannot be read.
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
    reasons = [{"path": name_of(file.path), "reason": name_of(file.reason)} for file in outcome.skipped]
    reasons.sort(key=lambda entry: entry["path"])
    content = {"found": outcome.found, "read": read, "not_needed": left, "skipped": reasons}
    write_text(path, json.dumps(content, indent=2) + "\n")
    numbers = f"{read:,} read, {skipped:,} skipped" + (f", {left:,} not needed" if left else "")
    return f"{outcome.found:,} files found: {numbers}; reasons in {path}"


@dataclass(frozen=True)
class Cache:
    folder: Path
    use: str  # purpose of the files; of each, only the newest entry is kept


def decode_cached(
    paths: Sequence[Path], decoder: Decoder, cache: Cache, skip: bool = False, limit: int | None = None
) -> DecodedImages:
    """Decode files as `decode` does, from the cache if it holds these files, else into it.

    The images are a private map of the cache file: writing to them does not change it. Of several processes, one
    decodes. Also raises BlobexError if the cache cannot be written.
    """
    entry = cache.folder / f"{entry_key(paths, decoder, limit)}.bin"
    decoded = _open(entry, paths, decoder, skip)
    if decoded is None:
        with _locked(cache.folder):
            decoded = _open(entry, paths, decoder, skip)  # another process may have written it meanwhile
            if decoded is None:
                _clean(cache)
                _require_space(cache.folder, min(len(paths), limit or len(paths)) * math.prod(decoder.shape))
                with whole_file(entry) as temporary, temporary.open("wb") as file:
                    outcome = collect(paths, decoder, lambda array: file.write(array.tobytes()), skip, limit)
                record = _record(outcome, paths, decoder, cache.use)
                write_text(entry.with_suffix(".json"), json.dumps(record) + "\n")
                decoded = _open(entry, paths, decoder, skip)
    if decoded is None:
        raise BlobexError(f"{entry} cannot be mapped into memory: set data.cache to null, or to another file system")
    return decoded


def entry_key(paths: Sequence[Path], decoder: Decoder, limit: int | None = None) -> str:
    """Return a hash of the decoder and of each file's path, size and time of change, in order."""
    digest = hashlib.sha256(repr((VERSION, PIL.__version__, decoder.name, decoder.shape, limit)).encode())
    for path in paths:
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "absent"
        digest.update(b"\0".join((os.fsencode(path.absolute()), state.encode(), b"")))
    return digest.hexdigest()[:32]


def _open(entry: Path, paths: Sequence[Path], decoder: Decoder, skip: bool) -> DecodedImages | None:
    """Return the images of an entry; None if it is missing or damaged, or if a skipped file can be read now."""
    try:
        record = read_json(entry.with_suffix(".json"))
        sizes = [(int(rows), int(columns)) for rows, columns in record["sizes"]]
        broken = [paths[index] for index in record["skipped"]]
        shape = (len(sizes), *decoder.shape)
        if not sizes or not record["bytes"] == entry.stat().st_size == math.prod(shape):
            return None
        with entry.open("rb") as file:
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            content = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=protection)
        images = torch.frombuffer(content, dtype=torch.uint8).view(shape)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    errors = [result for result in decode_each(broken, decoder) if isinstance(result, BlobexError)]
    if len(errors) < len(broken):
        return None
    if errors and not skip:
        raise errors[0]
    passed = set(broken)
    read = [path for path in paths if path not in passed][: len(sizes)]
    skipped = [Skipped(path, str(error)) for path, error in zip(broken, errors, strict=True)]
    return DecodedImages(len(paths), read, sizes, skipped, images)


def _record(outcome: Outcome, paths: Sequence[Path], decoder: Decoder, use: str) -> dict[str, Any]:
    broken = {file.path for file in outcome.skipped}
    return {
        "slot": use,
        "recipe": decoder.name,
        "shape": decoder.shape,
        "bytes": len(outcome.sizes) * math.prod(decoder.shape),
        "files": outcome.found,
        "skipped": [index for index, path in enumerate(paths) if path in broken],
        "sizes": outcome.sizes,
    }


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time write, and turn OSError into BlobexError."""
    try:
        with locked(folder / ".lock"):
            yield
    except OSError as error:
        raise BlobexError(
            f"data.cache {folder} cannot be written ({error.strerror or error}): choose another folder, or null"
        ) from error


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BlobexError(
            f"data.cache {folder} has {free / 1e9:.1f} GB left and needs {needed / 1e9:.1f}: choose another, or null"
        )


def _clean(cache: Cache) -> None:
    """Remove older entries of the same use and the rests of stopped processes; call it under the lock."""
    files = [(file, match) for file in cache.folder.iterdir() if (match := NAME.fullmatch(file.name))]
    kept = {match[1] for file, match in files if file.suffix == ".json" and _use(file) not in (None, cache.use)}
    for file, match in files:
        if match[1] not in kept or match[3]:
            file.unlink(missing_ok=True)


def _use(file: Path) -> str | None:
    """Return the use of an entry, or None if its description is damaged."""
    try:
        return str(read_json(file)["slot"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
