"""Comparison of DVC stages with what dvc.lock records of them, as `dvc status` makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from blobex.core.errors import BlobexError, brief

CHANGED = ("modified", "new")  # a deleted file cannot be compared, as in a clone without the data


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
