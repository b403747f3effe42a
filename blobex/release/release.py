"""`blobex release`: write the networks of a setup as one folder, and register it as a version in MLflow."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import blobex
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.core.files import whole_folder
from blobex.explain.explainer import Explainer
from blobex.networks.import_weights import sha256
from blobex.release import registry
from blobex.release.card import Origin, card, listed_checksums
from blobex.release.contents import Contents, collect
from blobex.tracking.store import OFF, connect
from blobex.tracking.versions import git

CARD, LICENSE = "README.md", Path(blobex.__file__).parents[1] / "LICENSE"
NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Release:
    """A release that was written."""

    folder: Path
    files: int
    bytes: int
    models: list[str]  # names and version numbers of the new references in MLflow; empty if not registered
    missing: list[str]  # names of networks and measures that are not in it


def release(setups: Sequence[str], to: Path, name: str = "blobex", register: bool = True) -> list[Release]:
    """Release the networks of setups from models/ to `to`/<setup>, each replaced once the new one is complete.

    With `register`, the release becomes a version of the MLflow model <name>-<setup> with the alias `reference`.

    Raises:
        BlobexError: before anything is written, if networks or their measures are missing, differ from what dvc.lock
            records or do not belong together, or if `to` holds other files.
    """
    if not NAME.fullmatch(name):
        raise BlobexError(f"the name {name!r} cannot be that of a model: use letters, digits, _, . and -")
    params, contents = load_params("params.yaml"), list[Contents]()
    for setup in setups:
        _check_replaceable(to / setup)
        Explainer.load(setup, params=params, device="cpu")  # raises BlobexError if a network is missing or damaged
        contents.append(collect(params, setup))
    try:
        return [_write(params, each, to / each.setup, f"{name}-{each.setup}", register) for each in contents]
    except OSError as error:
        raise BlobexError(f"cannot write the release to {to}: {error}") from error


def _check_replaceable(folder: Path) -> None:
    """Raise BlobexError unless the folder is missing, empty or an unchanged release."""
    present = _files(folder)
    known: set[str] = set()
    if CARD in present:
        checksums = listed_checksums((folder / CARD).read_text(encoding="utf-8", errors="replace"))
        known = {*checksums, CARD} if checksums else set()
    foreign = sorted(set(present) - known)
    if foreign:
        raise BlobexError(f"{folder} holds {foreign[0]}, which is not of a release: move it, or give another folder")


def _write(params: Params, contents: Contents, folder: Path, model: str, register: bool) -> Release:
    run, commit = params.run, git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    client = connect(run.tracking_uri, run.s3_endpoint) if register and run.tracking_uri != OFF else None
    runs = registry.training_runs(client, contents) if client else {}
    license_text = LICENSE.read_text(encoding="utf-8") if LICENSE.is_file() else None
    tags = {"setup": contents.setup, "blobex": blobex.__version__, "mlflow.source.git.commit": commit}
    models, version = list[str](), ""
    with whole_folder(folder) as new:
        _copy(contents, new)
        checksums = {path: sha256(new / path) for path in _files(new)}
        text = card(model, params, contents, Origin(runs, commit, license_text), checksums)
        (new / CARD).write_text(text, encoding="utf-8")
        if client:
            version = registry.add_version(client, params, model, new, contents.metrics(), tags)
    if client:
        models = registry.promote(client, model, version, contents, runs)
    sizes = [(folder / path).stat().st_size for path in _files(folder)]
    return Release(folder, len(sizes), sum(sizes), models, list(contents.missing))


def _copy(contents: Contents, new: Path) -> None:
    """Copy everything but the card, at the same relative paths."""
    for path in [Path("params.yaml"), *(path for part in contents.parts for path in part.files)]:
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, new / path)
    if LICENSE.is_file():
        shutil.copyfile(LICENSE, new / LICENSE.name)


def _files(folder: Path) -> list[str]:
    """Return the relative paths of all files in a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
