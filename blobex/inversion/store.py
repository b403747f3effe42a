"""Inversions on disk: one file with the pictures, their names and everything that was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from blobex.errors import BlobexError, brief
from blobex.files import whole_file
from blobex.inversion.invert import Inversion
from blobex.layout.layout import from_dict
from blobex.networks.tensor_file import load_tensors, save_tensors


def save_inversion(path: Path, names: Sequence[str], queries: Tensor, inversion: Inversion) -> None:
    """Write names, pictures (N,3,H,W) in [-1,1] and their inversion; the file appears whole or not at all."""
    fields = {item.name: getattr(inversion, item.name) for item in dataclasses.fields(Inversion)}
    tensors = {name: value.detach().cpu() for name, value in fields.items() if isinstance(value, Tensor)}
    layout = inversion.layout.detach().to("cpu").as_dict()
    with whole_file(path) as temporary:
        save_tensors(temporary, {"names": list(names), "queries": queries.cpu(), "layout": layout, **tensors})


def load_inversion(path: Path) -> tuple[list[str], Tensor, Inversion]:
    """Names, pictures and inversion as saved; BlobexError if the file is missing or damaged."""
    try:
        content = load_tensors(path)
        names, queries, layout = content.pop("names"), content.pop("queries"), content.pop("layout")
        inversion = Inversion(layout=from_dict(layout), **content)
        _check(names, queries, inversion)
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BlobexError(
            f"cannot read the inversions in {path} ({brief(error)}): run `dvc repro invert` first"
        ) from error
    return names, queries, inversion


def _check(names: Any, queries: Any, inversion: Inversion) -> None:
    """ValueError unless there is one of everything for each name."""
    measures = [getattr(inversion, item.name) for item in dataclasses.fields(Inversion) if item.name != "layout"]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("no names of pictures")
    if not all(isinstance(value, Tensor) and len(value) == len(names) for value in (queries, *measures)):
        raise ValueError("not one of everything for each picture")
    if len(inversion) != len(names) or queries.ndim != 4 or queries.shape != inversion.image.shape:
        raise ValueError("pictures, reconstructions and blobs that do not belong together")
    if not all(tensor.isfinite().all() for tensor in (queries, inversion.image, *inversion.layout.as_dict().values())):
        raise ValueError("numbers that are not finite")
