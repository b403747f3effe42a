"""Folder of results, written image by image, so that an interrupted run continues where it stopped.

settings.json identifies what the results were made with; pictures/<number>_<name>/ holds the files of one image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from blobex.core.device import ALONE, Ranks
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_folder, write_text
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import ImageShare
from blobex.explain.overviews import IMAGES_PER_FILE, TABLE, write_overview, write_table
from blobex.explain.record_files import DAMAGES, read_records, safe_name, write_records
from blobex.explain.request import Output

SETTINGS, PICTURES, INVERSIONS = "settings.json", "pictures", "inversions"
UNFINISHED = ".*.part"  # files that a killed process was writing
OVERVIEWS = ("snapshot_*.png", "metadata_*.pt")  # of all images, written at the end
ANSWERS = "decision.answers"  # outputs of the model for fixed images
RESULTS = (SETTINGS, PICTURES, INVERSIONS, TABLE, *OVERVIEWS, UNFINISHED)
IN_WORDS = {"decision.content": "the decision model is another", ANSWERS: "the decision model answers otherwise"}
# Row of an image, its explanations, and the frames of their animations, uint8 (H,W,3), if there are any.
Explained = tuple[int, list[Explanation], list[list[np.ndarray]]]


@dataclass(frozen=True)
class ResultsFolder:
    """Results of one run's settings."""

    path: Path
    settings: str  # content of settings.json

    @classmethod
    def open(cls, output: Output, settings: Mapping[str, Any], ranks: Ranks = ALONE) -> ResultsFolder:
        """Open the folder of an output, new or to continue; the first of several processes prepares it for all.

        Raises:
            BlobexError: It is a file or holds other files, or it holds results of other settings or of a model that
                cannot be identified and `output` replaces nothing.
        """
        path = Path(output.folder).resolve()  # write to the target of a link, do not replace the link
        folder = cls(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
        try:
            _check(path)
            if ranks.first:
                folder._make_room(output, settings)
        except OSError as error:
            raise BlobexError(f"cannot write {path} ({error.strerror}): give another folder") from error
        if ranks.size > 1:
            if ranks.first:
                folder.write_settings()
            ranks.wait()
        if not ranks.first and (difference := _first_difference(path / SETTINGS, settings)):
            raise _other_settings(path, difference)
        return folder

    def _make_room(self, output: Output, settings: Mapping[str, Any]) -> None:
        """Remove results that are not to be continued; BlobexError if `output` does not say so."""
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        difference = _unidentified(settings) or _first_difference(self.path / SETTINGS, settings)
        if difference and not (output.replace or output.refresh):
            raise _other_settings(self.path, difference)
        if difference or output.replace:
            for old in self.path.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def read_finished(self, number: int, name: str, query: Tensor) -> list[Explanation] | None:
        """Read the explanations of image `number`; None if there are none of this image (3,H,W)."""
        try:
            return read_records(self._folder(number, name), name, _digest(query))
        except DAMAGES:
            return None

    def fill(self, images: ImageShare, explain: Callable[[Sequence[int]], Iterable[Explained]]) -> None:
        """Write the explanations of those images that the folder has none of; `explain` computes those of some rows."""
        missing = [
            row
            for row, (number, name) in enumerate(images.numbered)
            if not self.read_finished(number, name, images.queries[row])
        ]
        for row, records, frames in explain(missing):
            self.write(int(images.numbers[row]), images.queries[row], records, frames, images.original(row))

    def read(self, images: Iterable[tuple[int, str]]) -> Iterator[Explanation]:
        """Yield what any process wrote about numbered images; BlobexError if an image is not in this folder."""
        for number, name in images:
            folder = self._folder(number, name)
            try:
                yield from read_records(folder)
            except DAMAGES as error:
                raise BlobexError(f"{folder} is missing or damaged: all processes must write to one folder") from error

    def write(
        self,
        number: int,
        query: Tensor,
        records: Sequence[Explanation],
        films: Sequence[Sequence[np.ndarray]] = (),
        original: str | Path | np.ndarray | None = None,
    ) -> Path:
        """Write the explanations of image `number` (3,H,W), the frames of their animations, and see `write_records`."""
        folder = self._folder(number, records[0].image)
        self.write_settings()  # not earlier: a run without results leaves nothing
        (self.path / TABLE).unlink(missing_ok=True)  # a table is of finished results
        with whole_folder(folder) as new:
            write_records(new, _digest(query), records, films, original)
        self.inversion(number).unlink(missing_ok=True)
        return folder

    def inversion(self, number: int) -> Path:
        """Return the file of the inversion of image `number`, which exists until the image is explained."""
        return self.path / INVERSIONS / f"{number:04d}.pt"

    def finish(self, images: Sequence[tuple[int, str]], published: bool = False, ranks: Ranks = ALONE) -> None:
        """Write the table and the overviews of numbered images, whose folders are written; remove those of others.

        The processes share the overviews. The table is written last: a folder with a table is finished.
        """
        if ranks.first:
            self.write_settings()
            self._remove_stale(images)
        ranks.wait()
        groups = [images[first : first + IMAGES_PER_FILE] for first in range(0, len(images), IMAGES_PER_FILE)]
        for number in filter(ranks.has, range(len(groups))):
            write_overview(self.path, number, list(self.read(groups[number])), len(groups[number]), published)
        ranks.wait()
        if ranks.first:
            write_table(self.path, (record.row() for record in self.read(images)))

    def _remove_stale(self, images: Sequence[tuple[int, str]]) -> None:
        """Remove old overviews, inversions, images not in `images` and unfinished files."""
        shutil.rmtree(self.path / INVERSIONS, ignore_errors=True)
        for file in (file for pattern in (*OVERVIEWS, UNFINISHED) for file in self.path.glob(pattern)):
            file.unlink()
        current = {self._folder(number, name).name for number, name in images}
        for folder in (self.path / PICTURES).glob("*"):
            if folder.name not in current:
                shutil.rmtree(folder)

    def _folder(self, number: int, name: str) -> Path:
        return self.path / PICTURES / f"{number:04d}_{safe_name(Path(name).stem)}"

    def write_settings(self) -> None:
        """Write settings.json, unless it is there."""
        if not (self.path / SETTINGS).exists():
            write_text(self.path / SETTINGS, self.settings)


def kept(path: Path) -> str:
    """Return a sentence that says what a stopped run has left in a folder."""
    explained, inverted = len(list(path.glob(f"{PICTURES}/[0-9]*"))), len(list(path.glob(f"{INVERSIONS}/[0-9]*.pt")))
    if not explained + inverted:
        return "nothing was finished yet"
    return f"{path} keeps {explained} explained and {inverted} inverted images: the same command goes on from there"


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


def _other_settings(path: Path, difference: str) -> BlobexError:
    return BlobexError(f"{path} holds results of other settings ({difference}): give a new folder, or replace them")


def _unidentified(settings: Mapping[str, Any]) -> str:
    """Return why the model of the settings cannot be recognised in another run; empty: it can."""
    kind = settings.get("decision", {}).get("unknown")
    return f"perhaps: the decision model holds a {kind}, which cannot be compared" if kind else ""


def _first_difference(saved: Path, settings: Mapping[str, Any]) -> str:
    """Describe the first setting that differs from the saved ones; empty: none does."""
    try:
        return difference(read_json(saved), json.loads(json.dumps(settings)))
    except (OSError, ValueError, RecursionError):
        return f"{saved.name} is missing or damaged"


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Describe in a few words the first setting that differs; empty: none does."""
    old, new = _flat(first), _flat(second)
    for name in [*sorted((old.keys() | new.keys()) - IN_WORDS.keys()), *IN_WORDS]:
        was, now = old.get(name), new.get(name)
        if (name in old) != (name in new) or not (_close(was, now) if name == ANSWERS else was == now):
            return IN_WORDS.get(name, f"{name} was {was} and is {now}")
    return ""


def _close(first: Any, second: Any) -> bool:
    """Compare answers of a model, which devices round differently."""
    try:
        return np.allclose(np.array(first, float), np.array(second, float), rtol=1e-3, atol=1e-4, equal_nan=True)
    except (TypeError, ValueError):
        return False


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted names."""
    if not isinstance(tree, Mapping):
        return {name: tree}
    below = (_flat(value, f"{name}.{key}".strip(".")) for key, value in tree.items())
    return {leaf: value for leaves in below for leaf, value in leaves.items()}
