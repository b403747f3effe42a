"""Manifest of a data set: a small file beside its folder that DVC tracks; scenes can be rendered again from it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from blobex.config.data import Scenes
from blobex.config.params import Params
from blobex.config.read import parse
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_folder, write_text
from blobex.datasets.images import name_of
from blobex.datasets.scene_files import MARK, draw_all, is_complete
from blobex.scenes.write import DatasetCounts, write_dataset, write_list

AT_ONCE = 1000  # a data set of more scenes is drawn when it is read


def manifest_path(root: str | Path) -> Path:
    """Return the path of the manifest of the data set in a folder."""
    return Path(root).with_name(f"{Path(root).name}.json")


def write_manifest(root: Path, scenes: Scenes | None = None) -> dict[str, Any]:
    """Write and return the manifest of a folder: see `describe`.

    Without the parameters `scenes`, a manifest of the same files that has them is kept.
    """
    manifest, path = describe(root), manifest_path(root)
    if scenes is not None:
        manifest["scenes"] = dataclasses.asdict(scenes)
    elif path.is_file() and manifest.items() <= _read(path).items():
        return manifest
    write_text(path, json.dumps(manifest, indent=1) + "\n")
    if scenes is not None:
        shutil.copyfile(path, root / MARK)
    return manifest


def describe(root: Path) -> dict[str, Any]:
    """Return number, bytes and SHA-256 of the files below a folder, without names that begin with a dot."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise BlobexError(f"there are no files in {root}: set data.root to the folder of the data set")
    total, digest = 0, hashlib.sha256()
    for path in tqdm(paths, desc="checksum", unit="file", leave=False, disable=None):
        content = path.read_bytes()
        total += len(content)
        digest.update(os.fsencode(path.relative_to(root)) + f"\0{len(content)}\0".encode())
        digest.update(content)
    return {"files": len(paths), "bytes": total, "sha256": digest.hexdigest()}


def unprintable_names(root: Path) -> list[str]:
    """Return the names below a folder that are not UTF-8 or hold control characters, as results list them, sorted."""
    names = ((path, path.relative_to(root)) for path in root.rglob("*"))
    return sorted(name_of(name) for path, name in names if path.is_file() and name_of(name) != str(name))


def render_scenes(root: Path, options: Scenes) -> None:
    """Render synthetic scenes into an empty folder."""
    with tqdm(total=sum(dataclasses.astuple(_counts(options))), unit="scene", disable=None) as bar:
        write_dataset(root, _counts(options), options.height, options.seed, lambda done, _: bar.update(done - bar.n))


def draw_anew(root: Path, options: Scenes, code: str) -> None:
    """Replace `root` by newly drawn scenes; a call that was stopped is continued if options and code are the same.

    Args:
        code: hash of the code that draws.
    """
    part, mark = root.with_name(f".{root.name}.part"), json.dumps([dataclasses.asdict(options), code])
    if not (part / MARK).is_file() or (part / MARK).read_text(encoding="utf-8") != mark:
        shutil.rmtree(part, ignore_errors=True)
        _begin(part, options, mark)
    draw_all(part)
    with whole_folder(root) as new:
        new.rmdir()
        part.rename(new)


def check_scenes(root: Path) -> None:
    """Draw what is missing of scenes that are drawn on demand; raise BlobexError if they differ from the manifest."""
    if is_complete(root):
        return
    draw_all(root)
    path = manifest_path(root)
    manifest = _read(path)
    if describe(root) != {key: value for key, value in manifest.items() if key != "scenes"}:
        raise BlobexError(f"the scenes rendered now are not those of {path}: run `dvc repro scenes` to begin anew")


def _begin(folder: Path, options: Scenes, mark: str) -> None:
    """Begin a data set that is drawn on demand."""
    write_list(folder, _counts(options), options.height, options.seed)
    write_text(folder / MARK, mark)


def _counts(options: Scenes) -> DatasetCounts:
    return DatasetCounts(**{field.name: getattr(options, field.name) for field in dataclasses.fields(DatasetCounts)})


def data_root(params: Params) -> Path:
    """Return the folder that `data.root` names; scenes that are missing or differ from the manifest are drawn again.

    Many scenes are drawn only when they are read (`scene_files`), and compared with the manifest by `check_scenes`.
    Raises BlobexError if the manifest is damaged, or does not describe the few scenes that are drawn at once.
    """
    root = Path(params.data.root)
    path, copy = manifest_path(root), root / MARK
    if not path.is_file() or (copy.is_file() and copy.read_bytes() == path.read_bytes()):
        return root
    manifest = _read(path)
    if root.exists() and "scenes" not in manifest:
        return root
    try:
        options = parse(Scenes, manifest.pop("scenes", None), f"scenes of {path}")
    except BlobexError as error:
        raise BlobexError(f"{path} does not describe {root}, and does not say how to render it: {error}") from error
    with whole_folder(root) as new:
        if sum(dataclasses.astuple(_counts(options))) > AT_ONCE:
            _begin(new, options, path.read_text(encoding="utf-8"))
            return root
        render_scenes(new, options)
        if describe(new) != manifest:
            raise BlobexError(f"the scenes rendered now are not those of {path}: run `dvc repro scenes` to begin anew")
        shutil.copyfile(path, new / MARK)
    return root


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise BlobexError(f"{path} is damaged: run `dvc repro scenes`, or `make data` for other data sets") from error
    if not isinstance(manifest, dict):
        raise BlobexError(f"{path} is not a manifest: run `dvc repro scenes`, or `make data` for other data sets")
    return manifest
