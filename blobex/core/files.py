"""Files and folders that appear whole or not at all, and files from elsewhere that may be anything."""

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
    """A URI that may be shown: user and password are cut out.

    >>> without_password("postgresql://me:secret@host/studies")
    'postgresql://host/studies'
    """
    return re.sub(r"(?<=://)[^/@]*@", "", uri)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` at the end, if all went well.

    The folder is made if it is missing. OSError as the file system gives it; what stood at `path` then still stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)  # a full disk does not say what it was written for
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of `folder` at the end, if all went well.

    What stood there goes only when the new one stands. OSError as the file system gives it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        new, old = Path(place) / "new", Path(place) / "old"
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
    """What a JSON file holds. OSError as the file system gives it, ValueError for what is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def check_packed(path: Path) -> None:
    """ValueError if a ZIP file unpacks to more bytes than it has itself; OSError as the file system gives it.

    PyTorch and NumPy write what they put into such files as it is. Only a bomb says that it holds more.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:  # no ZIP file at all
        return
    if unpacked > path.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked:,} bytes")
