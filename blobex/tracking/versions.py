"""Versions of code and data, and changes since they were recorded, read from git and DVC."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from blobex.config.read import read_yaml
from blobex.core.errors import BlobexError, brief

COMMIT = "mlflow.source.git.commit"  # tags of all runs
SOURCE = "mlflow.source.name"
CHANGED = ("modified", "new")  # a deleted file cannot be compared, as in a clone without the data


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


def stage_changes(names: Sequence[str]) -> dict[str, str]:
    """Return what changed of each named stage, or of a stage upstream of it, since dvc.lock recorded it.

    Stages without a change are left out. What DVC cannot find, such as data that was not pulled, is no change.

    Raises:
        BlobexError: if this folder is no DVC project or its dvc.yaml or dvc.lock is damaged.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            status = repo.status(targets=list(names), with_deps=True)
            graph = repo.index.graph
            stages = {stage.addressing: stage for stage in graph}
            upstream = {name: [stages[name], *networkx.descendants(graph, stages[name])] for name in names}
    except (DvcException, KeyError) as error:
        message = f"DVC cannot compare {names[0]} ({brief(error)}): run this in the folder of dvc.yaml and dvc.lock"
        raise BlobexError(message) from error
    changes = {
        name: next((text for stage in chain for text in _changes(stage, status.get(stage.addressing, []))), None)
        for name, chain in upstream.items()
    }
    return {name: text for name, text in changes.items() if text}


def _changes(stage: Any, status: Sequence[Any]) -> Iterator[str]:
    name = stage.addressing
    if not all(out.hash_info for out in stage.outs):
        yield f"{name} is not recorded in dvc.lock"
    for entry in status:
        if not isinstance(entry, dict):
            yield f"{name}: {entry}"
            continue
        for path, state in (pair for files in entry.values() for pair in files.items()):
            parts = state.items() if isinstance(state, dict) else [(path, state)]
            yield from (f"{part} of {name} is {word}" for part, word in parts if word in CHANGED)
