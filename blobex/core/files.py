"""Atomic writes of files and folders, and careful reading of untrusted files."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def without_password(uri: str) -> str:
    """Remove user and password from a URI.

    >>> without_password("postgresql://me:secret@host/studies")
    'postgresql://host/studies'
    """
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` on success; create missing folders. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # the error of a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; missing folders are created. Raises OSError."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` on success; else `folder` is unchanged. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
        new, old = Path(parent) / "new", Path(parent) / "old"
        new.mkdir()
        yield new
        try:
            with suppress(FileNotFoundError):
                folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises OSError if it cannot be read and ValueError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_packed(path: Path, allowed: int = 0) -> None:
    """Raise ValueError if a ZIP file would unpack to more bytes than it has itself, or `allowed`; other files pass.

    PyTorch does not compress its files, and NumPy only if told to, so a ZIP bomb claims to hold more. Raises OSError if
    the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        return
    if unpacked > max(allowed, path.stat().st_size):
        raise ValueError(f"it would unpack to {unpacked:,} bytes")
