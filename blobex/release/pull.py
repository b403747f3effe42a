"""`blobex pull`: the networks that explanations need, from a clone, a release or a bucket, for use in any folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.config.value_types import Shape
from blobex.core.errors import BlobexError
from blobex.core.files import whole_folder
from blobex.core.project import MARK
from blobex.core.reference_networks import pulled_folder, reference_folder
from blobex.explain.explainer import Explainer
from blobex.networks.weights import CONFIG, WEIGHTS
from blobex.tracking.source_files import Source, open_source


@dataclass(frozen=True)
class Pulled:
    """Reference networks that were written."""

    folder: Path
    setups: tuple[str, ...]  # got now
    kept: tuple[str, ...]  # there before, of the same parameters
    removed: tuple[str, ...]  # there before, of other parameters
    bytes: int  # of all files in the folder


def pull(place: str, setup: str | None = None, endpoint: str | None = None) -> Pulled:
    """Get the networks of one setup, or of all that a place has, into `pulled_folder`, which changes at once or not.

    Setups that were there before stay if they belong to the same parameter file.

    Args:
        place: A clone of the project, a folder that `blobex release` wrote, or s3://bucket/folder with the files of
            one of them.
        endpoint: URL of an S3 server other than Amazon's.

    Raises:
        BlobexError: if the place cannot be read, or networks are missing there or do not fit each other.
    """
    source, home, before = open_source(place, endpoint), pulled_folder(), reference_folder()
    wanted = [setup] if setup else list(get_args(Shape))
    bases = {name: base for name in wanted if (base := _base(source, name)) is not None}
    if not bases:
        raise BlobexError(f"there are no networks of {' or '.join(wanted)} in {place}: give a clone or a release")
    with whole_folder(home) as new:
        for name, base in bases.items():
            _copy(source, base, name, new)
        others = [] if before is None else [name for name in _setups(before) if name not in bases]
        kept = others if before and (before / MARK).read_bytes() == (new / MARK).read_bytes() else []
        for name in kept:
            _copy(open_source(str(before)), "", name, new)
    removed = [name for name in others if name not in kept]
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
    return Pulled(home, tuple(bases), tuple(kept), tuple(removed), size)


def network_files(paths: Iterable[str], setup: str, params: Params) -> list[str]:
    """Return those of the paths models/... that an explanation of a setup reads: of networks and decision models."""
    single = {f"models/{kind}/{setup}" for kind in ("blobgan", params.invert.start, "parser", "control")}
    chosen = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name in (CONFIG, WEIGHTS) and (folder in single or folder.rpartition("/")[0] == f"models/decision/{setup}"):
            chosen.append(path)
    return chosen


def _base(source: Source, setup: str) -> str | None:
    """Return where in a source a setup's params.yaml and models/ are: "", or "<setup>/" of a release; or None."""
    bases = ("", f"{setup}/")
    return next((base for base in bases if source.find(f"{base}models/blobgan/{setup}")), None)


def _copy(source: Source, base: str, setup: str, new: Path) -> None:
    """Copy parameters and networks of a setup; BlobexError if they are damaged or of other parameters than before."""
    before = (new / MARK).read_bytes() if (new / MARK).is_file() else None
    source.copy(f"{base}{MARK}", new / MARK)
    if before not in (None, (new / MARK).read_bytes()):
        raise BlobexError(f"the setups in {source.place} have different parameters: get one at a time")
    params = load_params(new / MARK)
    paths = (path.removeprefix(base) for path in source.find(f"{base}models"))
    for path in network_files(paths, setup, params):
        source.copy(base + path, new / path)
    try:
        Explainer.load(setup, new / "models", params, "cpu")
    except BlobexError as error:
        raise BlobexError(f"{source.place} has no usable networks of {setup}: {error}") from error


def _setups(folder: Path) -> list[str]:
    return [name for name in get_args(Shape) if (folder / "models" / "blobgan" / name).is_dir()]
