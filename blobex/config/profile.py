"""Profiles, which differ from the default in some values. `python -m blobex.config.profile NAME` writes params.yaml."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from blobex.config.params import Params
from blobex.config.read import load_params, parse, parse_yaml, read_yaml
from blobex.config.write import replace_values
from blobex.core.errors import BlobexError, sentence
from blobex.core.files import whole_file

DEFAULT = "synthetic"
FOLDER = Path("profiles")


def profile_text(name: str, folder: Path = FOLDER) -> str:
    """Return a profile's parameter file: the default with its values and first comment; BlobexError if invalid."""
    if name not in profile_names(folder):
        raise BlobexError(f"there is no profile {name}: choose one of {' '.join(profile_names(folder))}")
    default, path = folder / f"{DEFAULT}.yaml", folder / f"{name}.yaml"
    text, own = default.read_text(encoding="utf-8"), path.read_text(encoding="utf-8")
    if name == DEFAULT:
        return text
    values = dict(profile_values(name, folder))
    return _heading(own) + replace_values(text, values).removeprefix(_heading(text))


def load_profile(name: str, folder: Path = FOLDER) -> Params:
    """Load the parameters of a profile."""
    return parse(Params, parse_yaml(profile_text(name, folder), name))


def profile_values(name: str, folder: Path = FOLDER) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of each key in a profile's file; mappings with free keys count as values."""
    return _leaves(read_yaml(folder / f"{name}.yaml"), load_params(folder / f"{DEFAULT}.yaml"))


def profile_names(folder: Path = FOLDER) -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def write_profile(name: str, path: Path = Path("params.yaml"), folder: Path = FOLDER) -> Path | None:
    """Write a profile to `path`; return the copy of the old file, which is saved unless it is an unchanged profile."""
    text, copy = profile_text(name, folder), path.with_name(f"{path.name}.saved")
    is_edited = path.exists() and path.read_bytes() not in [
        profile_text(other, folder).encode() for other in profile_names(folder)
    ]
    if is_edited:
        shutil.copyfile(path, copy)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        load_params(temporary)
    return copy if is_edited else None


def _leaves(tree: Any, section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of all values of a partial section."""
    known = parse(dict[str, Any], tree, prefix.removesuffix("."))
    for name, value in known.items():
        if not hasattr(section, name):
            raise BlobexError(f"unknown key {prefix}{name}: profiles/{DEFAULT}.yaml holds all keys")
        child, key = getattr(section, name), f"{prefix}{name}"
        if dataclasses.is_dataclass(child) and value is not None:  # an optional section may be null
            yield from _leaves(value, child, f"{key}.")
        else:
            yield key, value


def _heading(text: str) -> str:
    """Return the comment lines at the top of a text."""
    return "".join(takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True)))


def main() -> None:
    """Write params.yaml for the profile that the command line names."""
    try:
        name = sys.argv[1] if len(sys.argv) > 1 else DEFAULT
        copy = write_profile(name)
    except (BlobexError, OSError) as error:
        sys.exit(f"blobex: {sentence(error)}")
    if copy:
        print(f"your params.yaml is kept as {copy}")
    print(f"params.yaml is now the profile {name}")


if __name__ == "__main__":
    main()
