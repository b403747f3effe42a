"""A folder of results that grows picture by picture, so that a run that was stopped goes on where it was.

settings.json says what the results were made with; pictures/<number>_<name>/ holds all about one picture.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from blobex.config.read import parse
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_file, whole_folder
from blobex.datasets.images import load_image, write_gif, write_png
from blobex.explain.blob_changes import BlobChange
from blobex.explain.explanation import TABLE, Explanation, write_table
from blobex.layout.blobs import KEYS, BlobLayout, from_dict

SETTINGS, PICTURES, RECORD, BLOBS = "settings.json", "pictures", "record.json", "blobs.safetensors"
BEFORE = "before"  # label of the layout that all counterfactuals of a picture begin at
UNFINISHED = ".*.part"  # what a killed process was writing
OVERVIEWS = ("snapshot_*.png", "metadata_*.pt")  # of all pictures, written when all are known
RESULTS = (SETTINGS, PICTURES, TABLE, *OVERVIEWS, UNFINISHED)
DERIVED = ("verdict", "words")  # told for people, and worked out anew when read
PLAIN = (str, int, float, bool)  # what goes into the record as it is
SCORES = ("scores_before", "scores_after")
# What reading may meet in a folder that is damaged.
DAMAGES = (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, SafetensorError)
LENGTH = 60  # letters of a picture's or an output's name that its files bear


@dataclass(frozen=True)
class ResultFolder:
    """Results of one run's settings."""

    path: Path
    settings: str

    @classmethod
    def begin(cls, out: str | Path, settings: Mapping[str, Any], replace: bool) -> ResultFolder:
        """The folder `out`, new or to go on with.

        BlobexError: it is a file, holds anything else than results, or results of other settings; those are removed
        with `replace`.
        """
        path = Path(out).resolve()  # a link's target is written to, not the link
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        try:
            _check(path)
            saved = path / SETTINGS
            if any(path.glob("*")) and (not saved.is_file() or saved.read_bytes() != text.encode()):
                if not replace:
                    told = _difference(saved, settings)
                    raise BlobexError(
                        f"{path} holds results of other settings ({told}): give a new folder, or replace them"
                    )
                for old in path.iterdir():
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
        except OSError as error:
            raise BlobexError(f"cannot write {path} ({error.strerror}): give another folder") from error
        return cls(path, text)

    def known(self, number: int, name: str, query: Tensor) -> list[Explanation] | None:
        """What is known of picture `number`, if it is this picture (3,H,W)."""
        try:
            content = read_json(self._folder(number, name) / RECORD)
            if content["sha256"] != _hash(query) or content["image"] != name:
                return None
            return _read(self._folder(number, name), content["explanations"])
        except DAMAGES:
            return None

    def written(self, number: int, name: str) -> list[Explanation]:
        """What another process wrote about picture `number`; BlobexError if it did not, or elsewhere."""
        folder = self._folder(number, name)
        try:
            return _read(folder, read_json(folder / RECORD)["explanations"])
        except DAMAGES as error:
            raise BlobexError(f"{folder} is missing or damaged: all processes must write to one folder") from error

    def mark(self) -> None:
        """Write the settings, if they are not there yet."""
        if not (self.path / SETTINGS).exists():
            with whole_file(self.path / SETTINGS) as temporary:
                temporary.write_text(self.settings, encoding="utf-8")

    def write(
        self, number: int, query: Tensor, records: Sequence[Explanation], films: Sequence[Sequence[np.ndarray]] = ()
    ) -> Path:
        """Write all about picture `number` (3,H,W): its records, pictures and blobs.

        `films`, if given, are the frames, uint8 (H,W,3), from the query to each counterfactual.
        """
        folder = self._folder(number, records[0].image)
        self.mark()  # now, and not before: a run that comes to nothing leaves nothing
        with whole_folder(folder) as new:
            layouts = {BEFORE: records[0].blobs_before}
            write_png(new / "query.png", records[0].query)
            write_png(new / "reconstruction.png", records[0].reconstruction)
            rows = []
            for index, (record, label) in enumerate(zip(records, _labels(records), strict=True)):
                if films:
                    write_gif(new / f"{label}.gif", films[index])
                write_png(new / f"{label}.png", record.counterfactual)
                layouts[label] = record.blobs_after
                rows.append(as_json(record) | {"label": label})
            (new / BLOBS).write_bytes(to_bytes(_packed(layouts)))
            content = {"image": records[0].image, "sha256": _hash(query), "explanations": rows}
            (new / RECORD).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return folder

    def finish(self, names: Sequence[str], records: Sequence[Explanation]) -> None:
        """Write the table of all records, and remove overviews of earlier runs, what is left of pictures that are not
        among `names`, and of killed processes."""
        write_table(self.path, records)
        for file in (file for kind in (*OVERVIEWS, UNFINISHED) for file in self.path.glob(kind)):
            file.unlink()
        wanted = {self._folder(number, name).name for number, name in enumerate(names)}
        for folder in (self.path / PICTURES).iterdir():
            if folder.name not in wanted:
                shutil.rmtree(folder)

    def _folder(self, number: int, name: str) -> Path:
        return self.path / PICTURES / f"{number:04d}_{_safe(Path(name).stem)}"


def read_results(path: Path) -> list[Explanation]:
    """All explanations of a finished folder, in their order; BlobexError if there are none or one is damaged."""
    folders = sorted((path / PICTURES).glob("[0-9]*"), key=_place)
    if not folders:
        raise BlobexError(f"there are no explanations in {path}: run `blobex explain` or `dvc repro explain` first")
    records = []
    for folder in folders:
        try:
            content = read_json(folder / RECORD)
            records.extend(_read(folder, content["explanations"]))
        except DAMAGES as error:
            raise BlobexError(f"{folder} is damaged: remove it and explain again") from error
    return records


def _place(folder: Path) -> tuple[int, str]:
    """Orders the folders of pictures by their numbers, which may have more digits than others."""
    return len(folder.name.partition("_")[0]), folder.name


def as_json(record: Explanation) -> dict[str, Any]:
    """Convert an explanation to the form of record.json, without images and layouts; floats keep all digits."""
    fields = {name: value for name, value in vars(record).items() if isinstance(value, PLAIN)}
    derived = {name: getattr(record, name) for name in DERIVED} | {"changes": record.changes}
    scores = {name: getattr(record, name).tolist() for name in SCORES}
    return (
        fields
        | derived
        | scores
        | {"objects": list(record.objects), "blobs": [change.as_dict() for change in record.blobs]}
    )


def _read(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Explanation]:
    tensors = load_file(folder / BLOBS)
    query, reconstruction = load_image(folder / "query.png"), load_image(folder / "reconstruction.png")
    records = []
    for row in rows:
        label = row.pop("label")
        if label != _safe(label):
            raise ValueError(f"{label} is no name of a file")
        blobs = tuple(_blob({key: each[key] for key in each if key != "words"}) for each in row.pop("blobs"))
        scores: dict[str, Any] = {name: torch.tensor(parse(list[float], row.pop(name), name)) for name in SCORES}
        records.append(
            Explanation(
                **_checked({name: value for name, value in row.items() if name not in (*DERIVED, "objects")}),
                **scores,
                objects=tuple(dict(each) for each in row["objects"]),
                blobs=blobs,
                query=query,
                reconstruction=reconstruction,
                counterfactual=load_image(folder / f"{label}.png"),
                blobs_before=_layout(tensors, BEFORE),
                blobs_after=_after(tensors, label),
            )
        )
    return records


def _blob(row: Mapping[str, Any]) -> BlobChange:
    """What became of one blob, from JSON; BlobexError for values of other types."""
    hints = typing.get_type_hints(BlobChange) | {"keys": list[str]}
    fields = {name: parse(hints[name], value, name) for name, value in row.items()}
    return BlobChange(**fields | {"keys": tuple(fields["keys"])})


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The plain fields of a record, which are then of their types; BlobexError if they are not, or some are missing."""
    hints = typing.get_type_hints(Explanation)
    wanted = [name for name, hint in hints.items() if hint in PLAIN or name == "changes"]
    fields = {name: parse(hints[name], row.get(name), name) for name in {*wanted, *row}}
    if set(fields["changes"]) != set(KEYS):
        raise ValueError("changes of other keys")
    return fields


def _packed(layouts: Mapping[str, BlobLayout]) -> dict[str, Tensor]:
    """Layouts of one picture by label as tensors by name: of all but BEFORE, the entries alone that differ from it.

    `<label>.<key>` (n, ...) are entries of a key, and `<label>.<key>.at` (n) their places in it.
    """
    before = layouts[BEFORE]
    tensors = {f"{BEFORE}.{key}": tensor.contiguous() for key, tensor in before.items()}
    for label in layouts.keys() - {BEFORE}:
        for key, tensor in layouts[label].items():
            entries, known = tensor[0], getattr(before, key)[0]
            at = (entries != known).flatten(1).any(1) if entries.ndim > 1 else entries != known
            tensors |= {f"{label}.{key}": entries[at].contiguous(), f"{label}.{key}.at": at.nonzero()[:, 0]}
    return tensors


def _layout(tensors: Mapping[str, Tensor], label: str) -> BlobLayout:
    return from_dict({key: tensors[f"{label}.{key}"] for key in KEYS})


def _after(tensors: Mapping[str, Tensor], label: str) -> BlobLayout:
    """The layout of a counterfactual: BEFORE with its own entries."""
    layout = _layout(tensors, BEFORE).map(Tensor.clone)
    for key, tensor in layout.items():
        tensor[0, tensors[f"{label}.{key}.at"]] = tensors[f"{label}.{key}"]
    return layout


def _labels(records: Sequence[Explanation]) -> list[str]:
    """The names of the files of one picture's counterfactuals: to what each should change.

    With the output's number if two outputs are alike in such names, and its own if there are several of each.
    """
    names = [f"{_safe(record.from_class)}_to_{_safe(record.to_class)}" for record in records]
    if len(set(names)) < len({record.column for record in records}):
        names = [f"{name}_{record.column}" for name, record in zip(names, records, strict=True)]
    if any(record.number for record in records):
        names = [f"{name}_{record.number}" for name, record in zip(names, records, strict=True)]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise BlobexError(f"{records[number].attribute} is asked twice of {records[number].image}: ask once")
    return names


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:LENGTH] or "picture"


def _hash(query: Tensor) -> str:
    return hashlib.sha256(query.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def _check(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise BlobexError(f"{path} is a file: give a folder for the results")
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise BlobexError(f"cannot write {path}: {nearest} is no folder that may be written to; give another")
    others = [each.name for each in (path.iterdir() if path.is_dir() else ()) if not any(map(each.match, RESULTS))]
    if others:
        raise BlobexError(f"{path} holds {others[0]}, which is no result of blobex: give a new or an empty folder")


def _difference(saved: Path, settings: Mapping[str, Any]) -> str:
    """What is first different in the settings, in words."""
    try:
        old, new = _flat(read_json(saved)), _flat(json.loads(json.dumps(settings)))
    except (OSError, ValueError, RecursionError):
        return f"{saved.name} is missing or damaged"
    name = next(name for name in sorted(old | new) if old.get(name) != new.get(name))
    return f"{name} was {old.get(name)} and is {new.get(name)}"


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {name: tree}
    return {
        key: value for part, each in tree.items() for key, value in _flat(each, f"{name}.{part}".strip(".")).items()
    }
