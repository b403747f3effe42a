"""Whether files belong together, by what dvc.lock says they were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from blobex.errors import BlobexError

LOCK = Path("dvc.lock")
Stages = Mapping[str, Mapping[str, Any]]  # what dvc.lock records, by a stage's name, such as explain@rect-basic


def read_lock() -> Stages:
    """What DVC recorded of each stage; nothing where there is no dvc.lock. BlobexError if it is damaged."""
    try:
        content = yaml.safe_load(LOCK.read_text(encoding="utf-8")) or {}
        return dict(content.get("stages") or {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise BlobexError("dvc.lock is damaged: take it from git again, or run `dvc repro`") from error


def misfit(stages: Stages, stage: str, params: Mapping[str, Any] | None) -> str | None:
    """What speaks against a stage's outputs as they are now, None where nothing does or nothing is recorded.

    Its files must be those that were recorded, and made of the recorded outputs of other stages, for which the same
    holds. With `params`, a nested mapping, all these stages must have run with these parameters.
    """
    makers = {output["path"]: name for name, entry in stages.items() for output in entry.get("outs", [])}
    made = {output["path"]: output.get("md5") for entry in stages.values() for output in entry.get("outs", [])}
    waiting, seen = [stage], set[str]()
    while waiting:
        current = waiting.pop()
        if current in seen or current not in stages:
            continue
        seen.add(current)
        entry = stages[current]
        used = entry.get("params", {}).get("params.yaml", {})
        changed = [name for name, value in used.items() if params is not None and _at(params, name) != value]
        if changed:
            return f"{current} did not run with {changed[0]} as it is in params.yaml"
        for output in entry.get("outs", []):
            path = Path(output["path"])
            if path.is_file() and _md5(path, path.stat().st_mtime_ns) != output.get("md5"):
                return f"{path} is not the file that dvc.lock records"
        for source in entry.get("deps", []):
            if source["path"] in makers and source.get("md5") != made[source["path"]]:
                return f"{current} was made of another {source['path']}"
            waiting += [makers[source["path"]]] if source["path"] in makers else []
    return None


def _at(tree: Any, name: str) -> Any:
    """The value at a dotted name; None where there is none."""
    for key in name.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


@cache
def _md5(path: Path, changed: int) -> str:
    """As DVC identifies files; it protects from nobody. `changed` is when the file was written."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
