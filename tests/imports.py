"""Imports of the modules of blobex, read from their source; imports inside functions count."""

from functools import cache
from pathlib import Path

from blobex.core.code_state import imported_files, read_module

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "blobex"
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """Return the dotted name of a module of blobex."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path):
    """Return the modules of blobex that a file imports itself, without the packages that hold them."""
    files = imported_files(read_module(path).imports, PACKAGE)
    return [file for file in files if file.name != "__init__.py" and file != path]


def packages_of(path):
    """Return the names of all other packages that a file imports itself."""
    return {name.split(".")[0] for name in read_module(path).imports} - {"blobex"}


@cache
def reachable(path):
    """Return the modules of blobex that a file imports, directly or not, itself included."""
    reached, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current not in reached:
            reached.add(current)
            waiting += imports_of(current)
    return reached
