"""Decoded files kept on disk and mapped into memory: decoded once, larger than the memory if need be.

An entry is two files, named after a hash of what it holds: `<key>.bin`, the bytes, and `<key>.json`, what they are.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import mmap
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_file
from blobex.datasets.pictures import Outcome, Pictures, Recipe, Skipped, collect, results

VERSION = 1  # of the decoding: another one when the same file is to give other bytes
NAME = re.compile(r"\.?([0-9a-f]{32})\.(bin|json)(\.part)?")  # what this module writes; other files are left alone
MAP_NORESERVE = 0x4000  # Linux's; else it refuses a private map that is larger than the memory


@dataclass(frozen=True)
class Cache:
    folder: Path
    slot: str  # what the files are to their user; of each slot, only the newest entry is kept


def decode_cached(
    paths: Sequence[Path], recipe: Recipe, cache: Cache, skip: bool = False, limit: int | None = None
) -> Pictures:
    """The same as `pictures.decode`, from the cache if it holds these very files, else into it.

    The images are a private map of the file: what is written to them stays in this process. Of several processes, one
    decodes. BlobexError also if the cache cannot be written.
    """
    entry = cache.folder / f"{entry_key(paths, recipe, limit)}.bin"
    found = _open(entry, paths, recipe, skip)
    if found is None:
        with _writing(cache.folder):
            found = _open(entry, paths, recipe, skip)  # another process may have written it meanwhile
            if found is None:
                _clean(cache)
                _require_space(cache.folder, min(len(paths), limit or len(paths)) * math.prod(recipe.shape))
                _write(entry, paths, recipe, cache.slot, skip, limit)
                found = _open(entry, paths, recipe, skip)
    if found is None:
        raise BlobexError(f"{entry} cannot be mapped into memory: set data.cache to null, or to another file system")
    return found


def entry_key(paths: Sequence[Path], recipe: Recipe, limit: int | None = None) -> str:
    """A hash of the decoder and of each file's path, bytes and time of change, in order."""
    digest = hashlib.sha256(repr((VERSION, PIL.__version__, recipe.name, recipe.shape, limit)).encode())
    for path in paths:
        try:
            status = path.stat()
            mark = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            mark = "absent"
        digest.update(b"\0".join((os.fsencode(path.absolute()), mark.encode(), b"")))
    return digest.hexdigest()[:32]


def _open(entry: Path, paths: Sequence[Path], recipe: Recipe, skip: bool) -> Pictures | None:
    """What the entry holds, or None if it is missing, damaged, or a file skipped then can be read now."""
    try:
        record = read_json(entry.with_suffix(".json"))
        sizes = [(int(rows), int(columns)) for rows, columns in record["sizes"]]
        broken = [paths[index] for index in record["skipped"]]
        shape = (len(sizes), *recipe.shape)
        if not sizes or not record["bytes"] == entry.stat().st_size == math.prod(shape):
            return None
        images = _mapped(entry).view(shape)
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    errors = [result for result in results(broken, recipe) if isinstance(result, BlobexError)]
    if len(errors) < len(broken):
        return None
    if errors and not skip:
        raise errors[0]
    passed = set(broken)
    read = [path for path in paths if path not in passed][: len(sizes)]
    skipped = [Skipped(path, str(error)) for path, error in zip(broken, errors, strict=True)]
    return Pictures(len(paths), read, sizes, skipped, images)


def _mapped(entry: Path) -> Tensor:
    with entry.open("rb") as file:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        content = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=protection)
    return torch.frombuffer(content, dtype=torch.uint8)


def _write(entry: Path, paths: Sequence[Path], recipe: Recipe, slot: str, skip: bool, limit: int | None) -> None:
    with whole_file(entry) as temporary, temporary.open("wb") as file:
        outcome = collect(paths, recipe, lambda array: file.write(array.tobytes()), skip, limit)
    with whole_file(entry.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(_record(outcome, paths, recipe, slot)) + "\n", encoding="utf-8")


def _record(outcome: Outcome, paths: Sequence[Path], recipe: Recipe, slot: str) -> dict[str, Any]:
    broken = {file.path for file in outcome.skipped}
    return {
        "slot": slot,
        "recipe": recipe.name,
        "shape": recipe.shape,
        "bytes": len(outcome.sizes) * math.prod(recipe.shape),
        "files": outcome.found,
        "skipped": [index for index, path in enumerate(paths) if path in broken],
        "sizes": outcome.sizes,
    }


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """One process at a time; what the file system refuses becomes a BlobexError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise BlobexError(
            f"data.cache {folder} cannot be written ({error.strerror or error}): choose another folder, or null"
        ) from error


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BlobexError(
            f"data.cache {folder} has {free / 1e9:.1f} GB left and needs {needed / 1e9:.1f}: "
            "choose another folder, or null"
        )


def _clean(cache: Cache) -> None:
    """Remove the slot's older entries and what stopped processes left; the lock is held, so nobody is writing."""
    files = [(file, match) for file in cache.folder.iterdir() if (match := NAME.fullmatch(file.name))]
    kept = {match[1] for file, match in files if file.suffix == ".json" and _slot(file) not in (None, cache.slot)}
    for file, match in files:
        if match[1] not in kept or match[3]:
            file.unlink(missing_ok=True)


def _slot(file: Path) -> str | None:
    """The slot of an entry, or None if its record is damaged."""
    try:
        return str(read_json(file)["slot"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
