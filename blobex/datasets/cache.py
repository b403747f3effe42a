"""Cache of decoded files on disk, mapped into memory, so that data sets may be larger than memory.

An entry is two files, named after a hash of its sources: `<key>.bin` holds the bytes, `<key>.json` their description.
"""

from __future__ import annotations

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
from blobex.core.files import read_json, whole_file, write_text
from blobex.core.processes import locked
from blobex.datasets.decoding import DecodedImages, Decoder, Outcome, Skipped, collect, decode_each

VERSION = 1  # of the decoding: change it when the same file is to give other bytes
NAME = re.compile(r"\.?([0-9a-f]{32})\.(bin|json)(\.part)?")  # files of the cache; others are left alone
MAP_NORESERVE = 0x4000  # of Linux, which otherwise refuses a private map larger than memory


@dataclass(frozen=True)
class Cache:
    folder: Path
    use: str  # purpose of the files; of each, only the newest entry is kept


def decode_cached(
    paths: Sequence[Path], decoder: Decoder, cache: Cache, skip: bool = False, limit: int | None = None
) -> DecodedImages:
    """Decode files as `decoding.decode` does, from the cache if it holds these files, else into it.

    The images are a private map of the cache file: writing to them does not change it. Of several processes, one
    decodes.

    Raises:
        BlobexError: also if the cache cannot be written.
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
        images = _mapped(entry).view(shape)
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


def _mapped(entry: Path) -> Tensor:
    with entry.open("rb") as file:
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        content = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=protection)
    return torch.frombuffer(content, dtype=torch.uint8)


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
            f"data.cache {folder} has {free / 1e9:.1f} GB left and needs {needed / 1e9:.1f}: "
            "choose another folder, or null"
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
