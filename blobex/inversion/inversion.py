"""The record of inverted images and its file.

In the file, queries of 8 bits are uint8, reconstructions float16: off by at most an eighth of a grey level.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blobex.core.errors import BlobexError, brief
from blobex.core.files import whole_file
from blobex.datasets.images import to_float, to_uint8
from blobex.layout.blobs import BlobLayout, from_dict
from blobex.networks.weights import load_tensors, save_tensors


@dataclass(frozen=True)
class Inversion:
    """Inversions of N images: of each the best iterate, its rendering, and the terms of its loss."""

    layout: BlobLayout
    image: Tensor  # N,3,H,W: the reconstruction, rendered from `layout`
    loss: Tensor  # N: weighted sum of the next five
    perceptual: Tensor  # N: perceptual distance
    l2: Tensor  # N: mean squared error of pixels in [-1,1]
    decision: Tensor  # N: mean squared error of the decision model's features
    blobs: Tensor  # N: mean squared error to the layout at the start, summed over the keys
    density: Tensor  # N: mean unusualness of the appearances of background and blobs
    encoder_loss: Tensor  # N: loss of the layout at the start
    step: Tensor  # N: iterations before the best iterate; 0: the layout at the start
    failed: Tensor  # N, bool: no iterate was finite; `layout` is that at the start

    def __len__(self) -> int:
        return len(self.layout)

    def __getitem__(self, index: slice | Tensor) -> Inversion:
        return self._map(lambda value: value[index])

    def to(self, device: torch.device | str) -> Inversion:
        return self._map(lambda value: value.to(device))

    def replaced(self, index: Tensor, others: Inversion) -> Inversion:
        """Return a copy in which `others` take the place of the images `index` (n,)."""
        names = [field.name for field in dataclasses.fields(self)]
        return Inversion(**{name: getattr(self, name).index_copy(0, index, getattr(others, name)) for name in names})

    def _map(self, function: Callable[[Any], Any]) -> Inversion:
        return Inversion(**{field.name: function(getattr(self, field.name)) for field in dataclasses.fields(self)})


def save_inversion(path: Path, names: Sequence[str], queries: Tensor, inversion: Inversion) -> None:
    """Write names, queries (N,3,H,W) in [-1,1] and their inversion; the file appears complete or not at all."""
    fields = {field.name: getattr(inversion, field.name) for field in dataclasses.fields(Inversion)}
    tensors = {name: value.detach().cpu() for name, value in fields.items() if isinstance(value, Tensor)}
    queries = queries.cpu()
    converted = to_uint8(queries)
    lossless = torch.equal(to_float(converted), queries)  # for generated images it is not
    tensors |= {"queries": converted if lossless else queries, "image": tensors["image"].half()}
    layout = inversion.layout.detach().to("cpu").as_dict()
    with whole_file(path) as temporary:
        save_tensors(temporary, {"names": list(names), "layout": layout, **tensors})


def load_inversion(path: Path) -> tuple[list[str], Tensor, Inversion]:
    """Read names, queries and inversion, in float32; BlobexError if the file is missing or damaged."""
    try:
        content = load_tensors(path)
        names, queries, layout = content.pop("names"), content.pop("queries"), content.pop("layout")
        queries = to_float(queries) if queries.dtype == torch.uint8 else queries
        content["image"] = content["image"].float()
        inversion = Inversion(layout=from_dict(layout), **content)
        _check(names, queries, inversion)
    except (OSError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = brief(error)
        raise BlobexError(f"cannot read the inversions in {path} ({reason}): run `dvc repro invert` first") from error
    return names, queries, inversion


def _check(names: Any, queries: Any, inversion: Inversion) -> None:
    """Raise ValueError if the parts do not have one row per name."""
    measures = [getattr(inversion, field.name) for field in dataclasses.fields(Inversion) if field.name != "layout"]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("no image names")
    if not all(isinstance(value, Tensor) and len(value) == len(names) for value in (queries, *measures)):
        raise ValueError("some images lack a value")
    if len(inversion) != len(names) or queries.ndim != 4 or queries.shape != inversion.image.shape:
        raise ValueError("images, reconstructions and layouts do not match")
    if not all(tensor.isfinite().all() for tensor in (queries, inversion.image, *inversion.layout.as_dict().values())):
        raise ValueError("some numbers are not finite")
