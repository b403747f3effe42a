"""Folder of results, written image by image, so that an interrupted run continues where it stopped.

settings.json identifies what the results were made with; pictures/<number>_<name>/ holds the files of one image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from blobex.core.device import ALONE, Ranks
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_folder, write_text
from blobex.explain.explanation import Explanation
from blobex.explain.overviews import TABLE, write_table
from blobex.explain.record_files import DAMAGES, read_records, safe_name, write_records
from blobex.explain.request import Output

SETTINGS, PICTURES = "settings.json", "pictures"
UNFINISHED = ".*.part"  # files that a killed process was writing
OVERVIEWS = ("snapshot_*.png", "metadata_*.pt")  # of all images, written at the end
RESULTS = (SETTINGS, PICTURES, TABLE, *OVERVIEWS, UNFINISHED)


@dataclass(frozen=True)
class ResultsFolder:
    """Results of one run's settings."""

    path: Path
    settings: str  # content of settings.json

    @classmethod
    def open(cls, output: Output, settings: Mapping[str, Any], ranks: Ranks = ALONE) -> ResultsFolder:
        """Open the folder of an output, new or to continue; the first of several processes prepares it for all.

        Raises:
            BlobexError: It is a file, or holds other files, or results of other settings without `output.replace`.
        """
        if ranks.size > 1:
            if ranks.first:
                cls._begin(output, settings)._write_settings()
            ranks.wait()
            output = Output(output.folder)
        return cls._begin(output, settings)

    @classmethod
    def _begin(cls, output: Output, settings: Mapping[str, Any]) -> ResultsFolder:
        path = Path(output.folder).resolve()  # write to the target of a link, do not replace the link
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        try:
            _check(path)
            saved = path / SETTINGS
            if any(path.glob("*")) and (not saved.is_file() or saved.read_bytes() != text.encode()):
                if not output.replace:
                    raise BlobexError(
                        f"{path} holds results of other settings ({_first_difference(saved, settings)}): give a new "
                        "folder, or replace them"
                    )
                for old in path.iterdir():
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
        except OSError as error:
            raise BlobexError(f"cannot write {path} ({error.strerror}): give another folder") from error
        return cls(path, text)

    def read_finished(self, number: int, name: str, query: Tensor) -> list[Explanation] | None:
        """Read the explanations of image `number`; None if there are none of this image (3,H,W)."""
        try:
            return read_records(self._folder(number, name), name, _digest(query))
        except DAMAGES:
            return None

    def read_shared(self, number: int, name: str) -> list[Explanation]:
        """Read what another process wrote about image `number`; BlobexError if it is not in this folder."""
        folder = self._folder(number, name)
        try:
            return read_records(folder)
        except DAMAGES as error:
            raise BlobexError(f"{folder} is missing or damaged: all processes must write to one folder") from error

    def write(
        self, number: int, query: Tensor, records: Sequence[Explanation], films: Sequence[Sequence[np.ndarray]] = ()
    ) -> Path:
        """Write the explanations of image `number` (3,H,W), and the frames of their animations."""
        folder = self._folder(number, records[0].image)
        self._write_settings()  # not earlier: a run without results leaves nothing
        with whole_folder(folder) as new:
            write_records(new, _digest(query), records, films)
        return folder

    def finish(self, names: Sequence[str], records: Sequence[Explanation]) -> None:
        """Write the table of all records, and remove old overviews, images not in `names` and unfinished files."""
        write_table(self.path, [record.row() for record in records])
        for file in (file for pattern in (*OVERVIEWS, UNFINISHED) for file in self.path.glob(pattern)):
            file.unlink()
        current = {self._folder(number, name).name for number, name in enumerate(names)}
        for folder in (self.path / PICTURES).iterdir():
            if folder.name not in current:
                shutil.rmtree(folder)

    def _folder(self, number: int, name: str) -> Path:
        return self.path / PICTURES / f"{number:04d}_{safe_name(Path(name).stem)}"

    def _write_settings(self) -> None:
        if not (self.path / SETTINGS).exists():
            write_text(self.path / SETTINGS, self.settings)


def read_results(path: Path) -> list[Explanation]:
    """Read all explanations of a finished folder, in their order; BlobexError if none is there or one is damaged."""
    folders = list((path / PICTURES).glob("[0-9]*"))
    folders.sort(key=lambda folder: (len(folder.name.partition("_")[0]), folder.name))  # numbers differ in length
    if not folders:
        raise BlobexError(f"there are no explanations in {path}: run `blobex explain` or `dvc repro explain` first")
    records = []
    for folder in folders:
        try:
            records.extend(read_records(folder))
        except DAMAGES as error:
            raise BlobexError(f"{folder} is damaged: remove it and explain again") from error
    return records


def _digest(query: Tensor) -> str:
    return hashlib.sha256(query.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _check(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise BlobexError(f"{path} is a file: give a folder for the results")
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise BlobexError(f"cannot write {path}: {nearest} is not a writable folder; give another")
    names = [entry.name for entry in (path.iterdir() if path.is_dir() else ()) if not any(map(entry.match, RESULTS))]
    if names:
        raise BlobexError(f"{path} holds {names[0]}, which is no result of blobex: give a new or an empty folder")


def _first_difference(saved: Path, settings: Mapping[str, Any]) -> str:
    """Describe the first setting that differs from the saved ones."""
    try:
        old, new = _flat(read_json(saved)), _flat(json.loads(json.dumps(settings)))
    except (OSError, ValueError, RecursionError):
        return f"{saved.name} is missing or damaged"
    name = next(name for name in sorted(old | new) if old.get(name) != new.get(name))
    return f"{name} was {old.get(name)} and is {new.get(name)}"


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted names."""
    if not isinstance(tree, Mapping):
        return {name: tree}
    below = (_flat(value, f"{name}.{key}".strip(".")) for key, value in tree.items())
    return {leaf: value for leaves in below for leaf, value in leaves.items()}
