"""What git and DVC call the versions of this folder's code and data."""

from __future__ import annotations

import subprocess
from pathlib import Path

from blobex.config.read import read_yaml
from blobex.core.errors import BlobexError


def dvc_hash(path: Path) -> str:
    """The MD5 that dvc.lock holds for an output or a dependency, or "unversioned"; BlobexError if it is damaged."""
    try:
        stages = (read_yaml(Path("dvc.lock")) or {}).get("stages", {}).values()
        entries = [entry for stage in stages for part in ("outs", "deps") for entry in stage.get(part, [])]
        found = next((entry.get("md5") for entry in entries if entry["path"] == path.as_posix()), None)
    except OSError:
        return "unversioned"
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise BlobexError("dvc.lock is not what DVC writes: take it from git again, or run `dvc repro`") from error
    return str(found or "unversioned")


def git(*arguments: str) -> str:
    """What git answers; "none" where there is no git or no repository."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return answer.stdout.strip()
