"""Inversions on disk: one file with the pictures, their names and everything that was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from blobex.errors import BlobexError
from blobex.files import whole_file
from blobex.inversion.invert import Inversion
from blobex.layout.layout import from_dict


def save_inversion(path: Path, names: Sequence[str], queries: Tensor, inversion: Inversion) -> None:
    """Write names, pictures (N,3,H,W) in [-1,1] and their inversion; the file appears whole or not at all."""
    fields = {item.name: getattr(inversion, item.name) for item in dataclasses.fields(Inversion)}
    tensors = {name: value.detach().cpu() for name, value in fields.items() if isinstance(value, Tensor)}
    layout = inversion.layout.detach().to("cpu").as_dict()
    with whole_file(path) as temporary:
        torch.save({"names": list(names), "queries": queries.cpu(), "layout": layout, **tensors}, temporary)


def load_inversion(path: Path) -> tuple[list[str], Tensor, Inversion]:
    """Names, pictures and inversion as saved; BlobexError if the file is missing or damaged."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        names, queries, layout = content.pop("names"), content.pop("queries"), content.pop("layout")
        return names, queries, Inversion(layout=from_dict(layout), **content)
    except (OSError, RuntimeError, UnpicklingError, KeyError, TypeError, EOFError, AttributeError) as error:
        raise BlobexError(f"cannot read the inversions in {path}: run `dvc repro invert` first") from error
