"""Versions of code and data, read from git and DVC."""

from __future__ import annotations

import subprocess
from pathlib import Path

from blobex.config.read import read_yaml
from blobex.core.errors import BlobexError


def dvc_hash(path: Path) -> str:
    """Return the MD5 of an output or dependency in dvc.lock, or "unversioned".

    Raises:
        BlobexError: if dvc.lock is damaged.
    """
    try:
        stages = (read_yaml(Path("dvc.lock")) or {}).get("stages", {}).values()
        entries = [entry for stage in stages for part in ("outs", "deps") for entry in stage.get(part, [])]
        md5 = next((entry.get("md5") for entry in entries if entry["path"] == path.as_posix()), None)
    except OSError:
        return "unversioned"
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BlobexError("dvc.lock is not what DVC writes: take it from git again, or run `dvc repro`") from error
    return str(md5 or "unversioned")


def git(*arguments: str) -> str:
    """Return the output of a git command; "none" if git or the repository is missing."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return done.stdout.strip()
