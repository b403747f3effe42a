"""Files of one explained image: record.json, blobs.safetensors and images."""

from __future__ import annotations

import functools
import json
import math
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from blobex.config.read import parse
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.datasets.images import load_image, write_gif, write_png
from blobex.explain.blob_changes import BlobChange
from blobex.explain.explanation import Explanation
from blobex.explain.full_size import is_larger, lay_over, write_jpeg
from blobex.explain.step import Step
from blobex.layout.blobs import KEYS, BlobLayout, from_dict

RECORD, BLOBS = "record.json", "blobs.safetensors"
FULL = "_full.jpg"  # end of the name of a change at the size of the photo
BEFORE = "before"  # label of the layout that all counterfactuals of an image start at
DERIVED = ("verdict", "words")  # written for people, computed again when read
SCALARS = (str, int, float, bool)
OPTIONAL = "doubt"  # written only if there is one
SCORES = ("scores_before", "scores_after")
PUBLISHED = ("scores_start", "shares")  # of a published search only
# Exceptions that reading a damaged folder may raise.
DAMAGES = (OSError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, SafetensorError)
MAX_NAME = 60  # letters of an image's or an output's name in file names


def write_records(
    folder: Path,
    digest: str,
    records: Sequence[Explanation],
    films: Sequence[Sequence[np.ndarray]],
    original: str | Path | np.ndarray | None = None,
) -> None:
    """Write the explanations of one image into an empty folder.

    Args:
        digest: SHA-256 of the query.
        films: Frames of each explanation's animation, uint8 (H,W,3); empty: no animations.
        original: The photo, of which the changes are written at its own size, if this is larger; None: unknown.
    """
    layouts = {BEFORE: records[0].blobs_before}
    write_png(folder / "query.png", records[0].query)
    write_png(folder / "reconstruction.png", records[0].reconstruction)
    rows = []
    for index, (record, label) in enumerate(zip(records, _labels(records), strict=True)):
        if films:
            write_gif(folder / f"{label}.gif", films[index])
        write_png(folder / f"{label}.png", record.counterfactual)
        layouts[label] = record.blobs_after
        rows.append(as_json(record) | {"label": label})
    if original is not None:
        _write_full(folder, records, original)
    (folder / BLOBS).write_bytes(to_bytes(_pack(layouts)))
    content = {"image": records[0].image, "sha256": digest, "explanations": rows}
    (folder / RECORD).write_text(json.dumps(finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_full(folder: Path, records: Sequence[Explanation], original: str | Path | np.ndarray) -> None:
    """Write <label>_full.jpg for each change that was composed into the photo."""
    photo = original if isinstance(original, np.ndarray) else load_image(original)
    photo = photo if photo.ndim == 3 else np.repeat(photo[:, :, None], 3, axis=2)
    if not is_larger(photo, records[0].query):
        return
    height, width = records[0].query.shape[:2]
    for record, label in zip(records, _labels(records), strict=True):
        if record.compose != "photo" or record.failed or not (record.query != record.counterfactual).any():
            continue
        text = (
            f"blobex: {record.from_class} to {record.to_class}, {record.verdict}, {record.attribute} "
            f"{record.score_before:.3g} to {record.score_after:.3g}. The change was computed and verified at {width} x "
            f"{height} pixels, as the model sees the photo, and laid over it; this file itself was not verified."
        )
        source = None if isinstance(original, np.ndarray) else original
        write_jpeg(folder / f"{label}{FULL}", lay_over(photo, record.query, record.counterfactual), text, source)


def read_records(folder: Path, name: str | None = None, digest: str | None = None) -> list[Explanation]:
    """Read the explanations of one image.

    Raises:
        ValueError: They are of another image than `name` with SHA-256 `digest`, where given.
        Exception: One of DAMAGES.
    """
    content = read_json(folder / RECORD)
    if (name is not None and content["image"] != name) or (digest is not None and content["sha256"] != digest):
        raise ValueError(f"{folder} holds another image")
    tensors = load_file(folder / BLOBS)
    query, reconstruction = load_image(folder / "query.png"), load_image(folder / "reconstruction.png")
    records = []
    for row in content["explanations"]:
        label, steps = row.pop("label"), tuple(_read_step(step) for step in row.pop("steps", ()))
        if label != safe_name(label):
            raise ValueError(f"{label} is not a file name")
        blobs = tuple(_read_blob({key: blob[key] for key in blob if key != "words"}) for blob in row.pop("blobs"))
        present = [*SCORES, *(key for key in PUBLISHED if key in row)]
        scores: dict[str, Any] = {
            key: torch.tensor(parse(list[float], [_number(value) for value in row.pop(key)], key)) for key in present
        }
        records.append(
            Explanation(
                **_checked({key: value for key, value in row.items() if key not in (*DERIVED, "objects")}),
                **scores,
                objects=tuple(dict(item) for item in row["objects"]),
                blobs=blobs,
                steps=steps,
                query=query,
                reconstruction=reconstruction,
                counterfactual=load_image(folder / f"{label}.png"),
                blobs_before=_unpack(tensors, BEFORE),
                blobs_after=_unpack(tensors, label),
            )
        )
    return records


def as_json(record: Explanation) -> dict[str, Any]:
    """Convert an explanation to the form of record.json, without images and layouts; floats keep all digits.

    Numbers that are not finite are null in the file.
    """
    scalars = {key: value for key, value in vars(record).items() if isinstance(value, SCALARS)}
    if not record.doubt:
        scalars.pop(OPTIONAL)
    derived = {key: getattr(record, key) for key in DERIVED} | {"changes": record.changes}
    present = [*SCORES, *(key for key in PUBLISHED if getattr(record, key) is not None)]
    scores = {key: getattr(record, key).tolist() for key in present}
    objects = {"objects": list(record.objects), "blobs": [blob.as_dict() for blob in record.blobs]}
    steps = {"steps": [step.as_dict() for step in record.steps]} if record.steps else {}
    return scalars | derived | scores | objects | steps


def safe_name(name: str) -> str:
    """Convert a name to letters, digits, hyphens and underscores.

    >>> safe_name("not stop")
    'not_stop'
    """
    return re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:MAX_NAME] or "picture"


def finite(tree: Any) -> Any:
    """Return a tree of JSON values with None in the place of NaN and infinity, which JSON does not have.

    >>> finite({"scores": [0.5, float("nan")]})
    {'scores': [0.5, None]}
    """
    if isinstance(tree, Mapping):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def _number(value: Any) -> Any:
    """Return NaN for null, which stands in JSON for numbers that are not finite."""
    return math.nan if value is None else value


@functools.cache
def _hints(kind: type) -> Mapping[str, Any]:
    return MappingProxyType(typing.get_type_hints(kind))


def _read_blob(row: Mapping[str, Any]) -> BlobChange:
    """Convert a blob's change from JSON; BlobexError for values of other types."""
    hints = {**_hints(BlobChange), "keys": list[str]}
    fields = {
        name: parse(hints[name], _number(value) if hints[name] is float else value, name) for name, value in row.items()
    }
    return BlobChange(**fields | {"keys": tuple(fields["keys"])})


def _read_step(row: Mapping[str, Any]) -> Step:
    """Convert a step from JSON; BlobexError for values of other types."""
    hints = _hints(Step)
    return Step(**{name: parse(hints[name], value, name) for name, value in row.items()})


def _checked(row: Mapping[str, Any]) -> dict[str, Any]:
    """Check the scalar fields of a record; BlobexError for a missing field or another type."""
    hints = _hints(Explanation)
    expected = [name for name, hint in hints.items() if name != OPTIONAL and (hint in SCALARS or name == "changes")]
    row = {name: _number(value) if hints.get(name) is float else value for name, value in row.items()}
    row |= {"changes": {key: _number(value) for key, value in row["changes"].items()}}
    fields = {name: parse(hints[name], row.get(name), name) for name in {*expected, *row}}
    if set(fields["changes"]) != set(KEYS):
        raise ValueError("changes of other keys")
    return fields


def _pack(layouts: Mapping[str, BlobLayout]) -> dict[str, Tensor]:
    """Convert layouts of one image to named tensors; of all but BEFORE, keep the entries that differ from it.

    `<label>.<key>` (n, ...) are entries of a key, and `<label>.<key>.at` (n) their positions.
    """
    before = layouts[BEFORE]
    tensors = {f"{BEFORE}.{key}": tensor.contiguous() for key, tensor in before.items()}
    for label in layouts.keys() - {BEFORE}:
        for key, tensor in layouts[label].items():
            entries, start = tensor[0], getattr(before, key)[0]
            at = (entries != start).flatten(1).any(1) if entries.ndim > 1 else entries != start
            tensors |= {f"{label}.{key}": entries[at].contiguous(), f"{label}.{key}.at": at.nonzero()[:, 0]}
    return tensors


def _unpack(tensors: Mapping[str, Tensor], label: str) -> BlobLayout:
    layout = from_dict({key: tensors[f"{BEFORE}.{key}"].clone() for key in KEYS})
    for key, tensor in layout.items() if label != BEFORE else ():
        tensor[0, tensors[f"{label}.{key}.at"]] = tensors[f"{label}.{key}"]
    return layout


def _labels(records: Sequence[Explanation]) -> list[str]:
    """Return the file names of one image's counterfactuals, <from>_to_<to>, with numbers where these are not unique."""
    names = [f"{safe_name(record.from_class)}_to_{safe_name(record.to_class)}" for record in records]
    if len(set(names)) < len({record.column for record in records}):
        names = [f"{name}_{record.column}" for name, record in zip(names, records, strict=True)]
    if any(record.number for record in records):
        names = [f"{name}_{record.number}" for name, record in zip(names, records, strict=True)]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise BlobexError(f"{records[number].attribute} is asked twice of {records[number].image}: ask once")
    return names
