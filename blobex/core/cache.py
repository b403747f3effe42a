"""Values that take long to compute, kept between runs in the user's cache folder; whatever fails, nothing is kept."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from blobex.core.files import read_json


def read_kept(name: str) -> Any:
    """Return the kept value `name`, None if there is none or its file cannot be read."""
    try:
        return read_json(cache_folder() / name)
    except (OSError, RuntimeError, ValueError):
        return None


def is_kept(name: str) -> bool:
    """Return whether there is a file of the value `name`; it may be damaged."""
    with suppress(OSError, RuntimeError):
        return (cache_folder() / name).exists()
    return False


def keep(name: str, value: Any, replace: bool = False) -> None:
    """Keep a value of plain data in a file, as a whole; without `replace`, the first of several processes keeps its."""
    with suppress(OSError, RuntimeError):
        path = cache_folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=path.parent) as folder:
            temporary = Path(folder) / name
            temporary.write_text(json.dumps(value), encoding="utf-8")
            if replace:
                temporary.replace(path)
            else:
                os.link(temporary, path)


def cache_folder() -> Path:
    """Return the folder $XDG_CACHE_HOME/blobex or ~/.cache/blobex; RuntimeError if the user has no home folder."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "blobex"
