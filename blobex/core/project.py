"""The project that the current folder belongs to: the nearest folder, at or above it, that holds params.yaml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MARK = "params.yaml"


def project_folder() -> Path:
    """Return the folder of the project that the current folder belongs to; without one, the current folder."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / MARK).is_file()), here)


def in_project(path: str | Path) -> Path:
    """Return a path, or, if it is relative and absent, the place of the same name in the project.

    >>> in_project("/absent/models")
    PosixPath('/absent/models')
    """
    path = Path(path)
    return path if path.is_absolute() or path.exists() else Path(os.path.relpath(project_folder() / path))


def enter_project() -> Path:
    """Make the project's folder the current one; return the folder before. Its modules can still be imported."""
    before, folder = Path.cwd(), project_folder()
    if folder != before:
        os.chdir(folder)
        sys.path.append(str(before))
    return before
