"""Inversions on disk: one file with the pictures, their names and everything that was found.

Pictures of 8 bits are kept as such, and reconstructions in float16, which is off by an eighth of a grey level at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blobex.core.errors import BlobexError, brief
from blobex.core.files import whole_file
from blobex.datasets.images import to_float, to_uint8
from blobex.inversion.invert import Inversion
from blobex.layout.blobs import from_dict
from blobex.networks.tensor_file import load_tensors, save_tensors


def save_inversion(path: Path, names: Sequence[str], queries: Tensor, inversion: Inversion) -> None:
    """Write names, pictures (N,3,H,W) in [-1,1] and their inversion; the file appears whole or not at all."""
    fields = {item.name: getattr(inversion, item.name) for item in dataclasses.fields(Inversion)}
    tensors = {name: value.detach().cpu() for name, value in fields.items() if isinstance(value, Tensor)}
    tensors |= {"queries": _short(queries.cpu()), "image": tensors["image"].half()}
    layout = inversion.layout.detach().to("cpu").as_dict()
    with whole_file(path) as temporary:
        save_tensors(temporary, {"names": list(names), "layout": layout, **tensors})


def load_inversion(path: Path) -> tuple[list[str], Tensor, Inversion]:
    """Names, pictures and inversion as saved, in float32; BlobexError if the file is missing or damaged."""
    try:
        content = load_tensors(path)
        names, queries, layout = content.pop("names"), content.pop("queries"), content.pop("layout")
        queries = to_float(queries) if queries.dtype == torch.uint8 else queries
        content["image"] = content["image"].float()
        inversion = Inversion(layout=from_dict(layout), **content)
        _check(names, queries, inversion)
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BlobexError(
            f"cannot read the inversions in {path} ({brief(error)}): run `dvc repro invert` first"
        ) from error
    return names, queries, inversion


def _short(queries: Tensor) -> Tensor:
    """Pictures in [-1,1] as uint8, if that loses nothing: what a generator made it would."""
    short = to_uint8(queries)
    return short if torch.equal(to_float(short), queries) else queries


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
