"""`blobex release`: what is needed to explain, in one folder that stands alone, and as a version in MLflow."""

from __future__ import annotations

import re
import shutil
import subprocess
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
from blobex.release.card import card, listed
from blobex.release.contents import Contents, collect
from blobex.release.pipeline import Pipeline
from blobex.tracking.store import OFF, connect

CARD, LICENSE = "README.md", Path(blobex.__file__).parents[1] / "LICENSE"
NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Released:
    """A release that stands."""

    folder: Path
    files: int
    bytes: int
    models: list[str]  # names and versions in MLflow that are the reference now; none if it was not registered
    missing: list[str]  # names of networks and measures that it lacks


def release(setups: Sequence[str], to: Path, name: str = "blobex", register: bool = True) -> list[Released]:
    """Release the networks of setups from models/ into `to`/<setup>, which is replaced when the new one is whole.

    With `register` it becomes a new version of the MLflow model <name>-<setup>, to which the alias `reference` moves.
    BlobexError, before anything is written: networks or their measures are missing, are not those that dvc.lock
    records or do not belong together, or `to` holds other files.
    """
    if not NAME.fullmatch(name):
        raise BlobexError(f"the name {name!r} cannot be that of a model: use letters, digits, _, . and -")
    params, found = load_params("params.yaml"), list[Contents]()
    for setup in setups:
        _check_replaceable(to / setup)
        Explainer.load(setup, params=params, device="cpu")  # tells what is missing, or does not fit
        found.append(collect(Pipeline.read(), setup))
    try:
        return [
            _write(params, contents, to / contents.setup, f"{name}-{contents.setup}", register) for contents in found
        ]
    except OSError as error:
        raise BlobexError(f"cannot write the release to {to}: {error}") from error


def _check_replaceable(folder: Path) -> None:
    """BlobexError unless the folder is missing, empty, or a release without anything added."""
    present = _files(folder)
    known = listed((folder / CARD).read_text(encoding="utf-8", errors="replace")) if CARD in present else {}
    foreign = sorted(set(present) - set(known) - ({CARD} if known else set()))
    if foreign:
        raise BlobexError(f"{folder} holds {foreign[0]}, which is of no release: move it, or give another folder")


def _write(params: Params, contents: Contents, folder: Path, model: str, register: bool) -> Released:
    run, version, models, commit = params.run, "", list[str](), _commit()
    client = connect(run.tracking_uri, run.s3_endpoint) if register and run.tracking_uri != OFF else None
    runs = registry.training_runs(client, contents) if client else {}
    text = LICENSE.read_text(encoding="utf-8") if LICENSE.is_file() else None
    tags = {"setup": contents.setup, "blobex": blobex.__version__, "mlflow.source.git.commit": commit}
    with whole_folder(folder) as new:
        _copy(contents, new)
        checksums = {path: sha256(new / path) for path in _files(new)}
        (new / CARD).write_text(card(model, params, contents, runs, commit, text, checksums), encoding="utf-8")
        if client:
            version = registry.add_version(client, params, model, new, contents.metrics(), tags)
    if client:
        models = registry.promote(client, model, version, contents, runs)
    sizes = [(folder / path).stat().st_size for path in _files(folder)]
    return Released(folder, len(sizes), sum(sizes), models, list(contents.missing))


def _copy(contents: Contents, new: Path) -> None:
    """All but the card, at the paths that it has here."""
    for path in [Path("params.yaml"), *(path for part in contents.parts for path in part.files)]:
        (new / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, new / path)
    if LICENSE.is_file():
        shutil.copyfile(LICENSE, new / LICENSE.name)


def _files(folder: Path) -> list[str]:
    """All files of a folder, as paths seen from it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _commit() -> str:
    """The git commit, with -dirty behind it if files differ from it; "none" outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"
