"""Images of a sweep, which no report shows and no network was trained on, and their inversions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.processes import locked
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.images import name_of, to_float
from blobex.explain.explainer import Explainer
from blobex.inversion.inversion import Inversion, load_inversion, save_inversion

Images = tuple[list[str], Tensor]  # names, and images (N,3,height,width) in [-1,1]


@dataclass(frozen=True)
class ImageSplit:
    """Disjoint sets of images."""

    seen: Images  # on which trials are measured
    finals: Images  # on which finalists are measured
    held_out: Images  # of the comparison


def split_images(params: Params, setup: str, seen: int, finals: int, held_out: int) -> ImageSplit:
    """Load the images to explain that follow the first `invert.images`, which reports show.

    Raises:
        BlobexError: if there are too few.
    """
    paths = explained_paths(params)[params.invert.images :]
    wanted = seen + finals + held_out
    loaded = load_image_files(params, setup, paths, "sweep", wanted) if paths else None
    count = len(loaded.paths) if loaded else 0
    if loaded is None or count < wanted:
        raise BlobexError(
            f"a sweep on {seen} images, {finals} for finalists and {held_out} held out needs {wanted}, but behind "
            f"the first {params.invert.images} (invert.images) {params.data.root} has {count}: lower one of them"
        )
    names, images = [name_of(path) for path in loaded.paths], to_float(loaded.images)
    parts = (slice(0, seen), slice(seen, seen + finals), slice(seen + finals, wanted))
    return ImageSplit(*((names[part], images[part]) for part in parts))


class CachedInversion:
    """Inversion of images that is computed once and stored in a file, whose name depends on all that it is made of.

    Processes that need it at the same time wait for the first of them.
    """

    def __init__(self, explainer: Explainer, images: Images, folder: Path) -> None:
        self.explainer, self.names, self.queries = explainer, *images
        sources = {
            "pictures": digest(self.queries),
            "names": self.names,
            "weights": explainer.weights,
            "params": str((explainer.params.invert, explainer.params.search, explainer.params.run)),
        }
        name = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()[:12]
        self.path = folder / f"inversions-{name}.pt"

    @cached_property
    def inversion(self) -> Inversion:
        with locked(self.path.parent / "workers" / f"{self.path.stem}.lock"):
            if not self.path.exists():
                save_inversion(self.path, self.names, self.queries, self.explainer.invert(self.queries))
        return load_inversion(self.path)[2]


def digest(images: Tensor) -> str:
    """Return a hash of images."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()
