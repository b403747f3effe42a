"""Files of the synthetic data set that are drawn when they are read.

A data set is drawn on demand if its folder holds MARK, a copy of its manifest. Every scene has its own seed, so each
file has the same bytes whichever others are drawn, and a stopped process loses only the scene that it was drawing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.core.processes import locked
from blobex.scenes.sample import sample
from blobex.scenes.write import LIST, SceneSet, image_name

MARK = ".manifest.json"  # begins with a dot, as all files that are no part of the data set
LOCK = ".lock"


def scene_sets(root: Path) -> dict[str, SceneSet]:
    """Return the sets of a data set that is drawn on demand by name; none for other folders.

    Raises:
        BlobexError: if the list of the sets is damaged.
    """
    if not (root / MARK).is_file():
        return {}
    try:
        return _read_sets(root / LIST, (root / LIST).stat().st_mtime_ns)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise BlobexError(
            f"{root / LIST} does not list the sets of scenes: remove {root}, it is drawn again"
        ) from error


@cache
def _read_sets(path: Path, _changed: int) -> dict[str, SceneSet]:
    content = read_json(path)
    height = int(content["height"])
    sets = {}
    for name, entry in content["sets"].items():
        first = int(entry["first_seed"])
        sets[str(name)] = SceneSet(str(name), range(first, first + int(entry["count"])), height)
    return sets


def images_of(root: Path, name: str) -> list[Path] | None:
    """Return the paths of the images of a set, sorted, drawn or not; None if the folder is not drawn on demand."""
    part = scene_sets(root).get(name)
    return None if part is None else [part.files(root, seed)[-1] for seed in part.seeds]


def draw_images(root: Path, paths: Iterable[Path]) -> None:
    """Draw those of the files `paths` that are images of scenes of the data set and missing."""
    sets = scene_sets(root)
    missing = {path for path in paths if not path.is_file()} if sets else set()
    for part in sets.values() if missing else ():
        seeds = [seed for seed in part.seeds if part.files(root, seed)[-1] in missing]
        if seeds:
            with locked(root / LOCK):
                _draw(root, part, seeds)


def draw_labels(root: Path, name: str) -> None:
    """Draw the labels of a set, with its images if labels are boxes or masks, unless they are there."""
    part = scene_sets(root).get(name)
    if part is None or _has_labels(root, part):
        return
    with locked(root / LOCK):
        if _has_labels(root, part):  # another process drew them meanwhile
            return
        if name.startswith("decision"):
            part.write_labels(root, [sample(seed) for seed in _bar(part.seeds, f"labels of {name}")])
            return
        frames = _draw(root, part, part.seeds)
        if frames:
            part.write_labels(root, [frames[f"{image_name(seed)}.jpg"] for seed in part.seeds])
        _frames_file(root, name).unlink(missing_ok=True)


def draw_all(root: Path) -> None:
    """Draw all files of a data set that are missing."""
    for name, part in scene_sets(root).items():
        draw_labels(root, name)
        draw_images(root, [part.files(root, seed)[-1] for seed in part.seeds])


def is_complete(root: Path) -> bool:
    """Return False if a folder is drawn on demand and lacks files."""
    return all(
        _has_labels(root, part) and all(path.is_file() for seed in part.seeds for path in part.files(root, seed))
        for part in scene_sets(root).values()
    )


def _has_labels(root: Path, part: SceneSet) -> bool:
    if part.label_files(root):
        return all(path.is_file() for path in part.label_files(root))
    return all(path.is_file() for seed in part.seeds for path in part.files(root, seed))


def _draw(root: Path, part: SceneSet, seeds: Sequence[int]) -> dict[str, Any]:
    """Draw those of the scenes that are missing; call it under the lock.

    Returns the frames of all scenes that were ever drawn, by image, if the set has boxes and its labels are missing:
    they are written together, so each waits until then in a line of a file.
    """
    notes = _frames_file(root, part.name)
    framed = part.name.startswith("detection") and not _has_labels(root, part)
    frames = _read_frames(notes) if framed else {}

    def is_missing(seed: int) -> bool:
        unframed = framed and f"{image_name(seed)}.jpg" not in frames
        return unframed or not all(path.is_file() for path in part.files(root, seed))

    for seed in _bar([seed for seed in seeds if is_missing(seed)], part.name):
        frame = part.write_scene(root, seed)
        if framed:
            frames[frame["name"]] = frame
            with notes.open("a", encoding="utf-8") as file:
                file.write(f"\n{json.dumps(frame)}")  # on a new line, as the one before may have been cut short
    return frames


def _bar(seeds: Sequence[int], what: str) -> Iterable[int]:
    return tqdm(seeds, desc=f"drawing {what}", unit="scene", leave=False, disable=None)


def _frames_file(root: Path, name: str) -> Path:
    return root / f".{name}.jsonl"


def _read_frames(path: Path) -> dict[str, dict[str, Any]]:
    """Return the frames that were drawn already, by image; a line that was cut short is left out."""
    frames = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            frame = json.loads(line)
            frames[str(frame["name"])] = frame
        except (ValueError, LookupError, TypeError):
            continue
    return frames
