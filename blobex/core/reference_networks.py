"""Reference networks for folders that belong to no project: those that `blobex pull` got, else those of the wheel."""

from __future__ import annotations

import os
from pathlib import Path

from blobex.core.errors import BlobexError
from blobex.core.project import MARK, in_project, project_folder

WHEEL = Path(__file__).parents[1] / "reference"  # written by setup.py, absent in a clone
ADVICE = "`blobex pull --from PLACE` gets them from a clone, a release or s3://bucket/folder"


def pulled_folder() -> Path:
    """Return the folder that `blobex pull` writes: $BLOBEX_HOME, or `blobex` in the user's data folder.

    The data folder is $XDG_DATA_HOME, or ~/.local/share (XDG Base Directory Specification 0.8).
    """
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("BLOBEX_HOME") or Path(data) / "blobex")


def reference_folder() -> Path | None:
    """Return the folder of the reference networks, which holds models/ and params.yaml; None without any."""
    return next((folder for folder in (pulled_folder(), WHEEL) if (folder / MARK).is_file()), None)


def trained(path: str | Path) -> Path:
    """Return a path as `in_project` does; outside of a project, an absent one is that of the reference networks."""
    place, folder = in_project(path), reference_folder()
    if folder is None or place.is_absolute() or place.exists() or (project_folder() / MARK).is_file():
        return place
    return folder / path if (folder / path).exists() else place


def checked_params(path: Path) -> Path:
    """Return `path`; BlobexError if it is the default, and is missing because there are no networks at all."""
    if path == Path(MARK) and not path.exists():
        raise BlobexError(f"there is no {path} here, no project above, and no reference networks are there: {ADVICE}")
    return path


def check_setup(models: Path, setup: str) -> None:
    """Raise BlobexError if `models` is that of the reference networks and has none of a setup."""
    folder = reference_folder()
    if folder and models == folder / "models" and not (models / "blobgan" / setup).is_dir():
        raise BlobexError(f"there are no networks of {setup} in {models}: {ADVICE}")
