"""Pictures to tune on and to compare with, which no report shows and no network has seen, and their blobs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.images import name_of, to_float
from blobex.explain.explainer import Explainer
from blobex.inversion.inversion import Inversion
from blobex.inversion.inversion_file import load_inversion, save_inversion
from blobex.sweeps.claim import locked
from blobex.sweeps.task import Settings, Values, rounded

Part = tuple[list[str], Tensor]  # names, and pictures (N,3,height,width) in [-1,1]


@dataclass(frozen=True)
class Parts:
    """Lists of pictures of which no two have a common one."""

    seen: Part  # that trials are measured on
    finals: Part  # that finalists are measured on
    held_out: Part  # of the comparison


def parts(params: Params, setup: str, seen: int, finals: int, held_out: int) -> Parts:
    """Pictures to tune on and to compare with: of those that may be explained, the ones behind `invert.images`.

    BlobexError: there are too few.
    """
    paths = explained_paths(params)[params.invert.images :]
    wanted = seen + finals + held_out
    pictures = load_image_files(params, setup, paths, "sweep", wanted) if paths else None
    found = len(pictures.paths) if pictures else 0
    if pictures is None or found < wanted:
        raise BlobexError(
            f"a sweep on {seen} pictures, {finals} for finalists and {held_out} held out needs {wanted}, but behind "
            f"the first {params.invert.images} (invert.images) {params.data.root} has {found}: lower one of them"
        )
    names, images = [name_of(path) for path in pictures.paths], to_float(pictures.images)
    ends = (slice(0, seen), slice(seen, seen + finals), slice(seen + finals, wanted))
    return Parts(*((names[end], images[end]) for end in ends))


class Inverted:
    """The inversion of pictures, computed once and kept in a file.

    The file's name tells what it depends on; processes that need it at the same time wait for the first.
    """

    def __init__(self, explainer: Explainer, part: Part, folder: Path) -> None:
        self.explainer, self.names, self.queries = explainer, *part
        made_of = {
            "pictures": digest(self.queries),
            "names": self.names,
            "weights": explainer.weights,
            "params": str((explainer.params.invert, explainer.params.search, explainer.params.run)),
        }
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
        self.path = folder / f"inversions-{name}.pt"

    @cached_property
    def inversion(self) -> Inversion:
        with locked(self.path.parent / "workers" / f"{self.path.stem}.lock"):
            if not self.path.exists():
                found = self.explainer.invert(self.queries)
                save_inversion(self.path, self.names, self.queries, found)
        return load_inversion(self.path)[2]


def digest(pictures: Tensor) -> str:
    """A hash of pictures."""
    return hashlib.sha256(pictures.contiguous().numpy().tobytes()).hexdigest()


def chunks(count: int, size: int) -> list[Tensor]:
    """The numbers from 0 to `count`, `size` at a time."""
    return list(torch.arange(count).split(size))


def speed_settings(values: Values) -> Settings:
    """Settings of a search from values in which `travel`, learning_rate * steps, may stand for the learning rate.

    How far an entry can go at most is what steps and learning rate decide together: with half the learning rate a
    search needs twice the steps.
    """
    found = dict(values)
    if "travel" in found:
        found["learning_rate"] = found.pop("travel") / found["steps"]
    return {name: rounded(value) for name, value in found.items()}
