"""`blobex release`: what is needed to explain, in one folder that stands alone, and as a version in MLflow."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blobex import tracking
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.errors import BlobexError
from blobex.explainer import Explainer
from blobex.files import whole_folder
from blobex.importing import METRICS, PROVENANCE, sha256
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.release import registry
from blobex.release.card import card
from blobex.release.collect import MODELS, REPORTS, Measured, Network, collect, measured
from blobex.release.facts import Facts, commit, data_hash, license_file, license_name
from blobex.release.half import Halved, halve, pictures
from blobex.release.lineage import Stages, read_lock

PARAMS = Path("params.yaml")
CARD, SUMS, LICENSE = "README.md", "SHA256SUMS", "LICENSE"
NAME = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Released:
    """A release that stands."""

    folder: Path
    files: int
    bytes: int
    models: tuple[str, ...]  # names and versions in MLflow that are the reference now; none if it was not registered
    missing: tuple[str, ...]  # names of networks and measures that it lacks


@dataclass(frozen=True)
class Plan:
    """All of a release that is known before anything is written."""

    setup: str
    folder: Path
    networks: Sequence[Network]
    absent: Sequence[str]
    measured: Sequence[Measured]
    missing: Mapping[str, str]


def release(
    setups: Sequence[str], to: Path, name: str = "blobex", register: bool = True, half: bool = False
) -> list[Released]:
    """Release the networks of setups from models/ into `to`/<setup>, which is replaced when the new one is whole.

    With `register` it becomes a new version of the MLflow model <name>-<setup>, to which the alias `reference` moves.
    With `half`, weights are stored in half precision where that is harmless. BlobexError, before anything is written:
    networks or their measures are missing or do not belong together, or `to` holds other files.
    """
    if not NAME.fullmatch(name):
        raise BlobexError(f"the name {name!r} cannot be that of a model: use letters, digits, _, . and -")
    params, stages = load_params(PARAMS), read_lock()
    register = register and params.run.tracking_uri != tracking.OFF
    try:
        plans = [_plan(params, setup, to / setup, stages) for setup in setups]
        return [_write(params, plan, name, register, half) for plan in plans]
    except OSError as error:
        raise BlobexError(f"cannot write the release to {to}: {error}") from error


def _plan(params: Params, setup: str, folder: Path, stages: Stages) -> Plan:
    _check_replaceable(folder)
    networks, absent = collect(params, setup, stages)
    Explainer.load(setup, MODELS, params, "cpu")  # tells what else does not fit
    return Plan(setup, folder, networks, absent, *measured(params, setup, stages))


def _check_replaceable(folder: Path) -> None:
    """BlobexError unless the folder is missing, empty, or a release without anything added."""
    if not folder.exists():
        return
    present = set(_files(folder)) if folder.is_dir() else {"."}
    listed = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines() if SUMS in present else []
    foreign = sorted(present - {line[66:] for line in listed} - {SUMS})
    if foreign:
        raise BlobexError(f"{folder} holds {foreign[0]}, which is of no release: move it, or give another folder")


def _write(params: Params, plan: Plan, name: str, register: bool, half: bool) -> Released:
    asked = registry.store_to_ask(params)
    runs = {each.name: registry.training_run(asked, each) for each in plan.networks} if asked else {}
    model, version = f"{name}-{plan.setup}", ""
    client = tracking.connect(params.run.tracking_uri) if register else None
    with whole_folder(plan.folder) as new:
        halved = _fill(new, plan, half)
        facts = Facts(
            name,
            plan.setup,
            params,
            plan.networks,
            plan.absent,
            plan.measured,
            plan.missing,
            {label: run for label, run in runs.items() if run},
            halved,
            license_name(license_file(), any(network.imported is not None for network in plan.networks)),
            commit(),
            data_hash(params),
        )
        (new / CARD).write_text(card(facts, _checksums(new)), encoding="utf-8")
        lines = [f"{checksum}  {path}\n" for path, checksum in _checksums(new).items()]
        (new / SUMS).write_text("".join(lines), encoding="utf-8")
        if client:
            version = registry.add_version(client, model, plan.setup, new, facts.metrics(), facts.tags())
    models = list[str]()
    if client:
        registry.promote(client, model, version)
        decisions = [network for network in plan.networks if network.stage == "decision"]
        found = [registry.promote_decision(client, network, runs.get(network.name)) for network in decisions]
        models = [f"{model} {version}", *filter(None, found)]
    files = [plan.folder / path for path in _files(plan.folder)]
    size = sum(path.stat().st_size for path in files)
    return Released(plan.folder, len(files), size, tuple(models), (*plan.absent, *plan.missing))


def _fill(new: Path, plan: Plan, half: bool) -> dict[str, Halved]:
    """Copy everything but the card to the folder `new`; what became of the weights, if they were to be halved."""
    shutil.copyfile(PARAMS, new / PARAMS.name)
    text = license_file()
    if text:
        shutil.copyfile(text, new / LICENSE)
    for network in plan.networks:
        target = new / MODELS / network.place
        target.mkdir(parents=True)
        for name in (weights.WEIGHTS, weights.CONFIG, METRICS, *([PROVENANCE] if network.imported is not None else [])):
            shutil.copyfile(network.folder / name, target / name)
    for each in plan.measured:
        (new / REPORTS / each.place).mkdir(parents=True)
        shutil.copyfile(REPORTS / each.place / METRICS, new / REPORTS / each.place / METRICS)
    if not half:
        return {}
    images = pictures(load_blobgan(MODELS / "blobgan" / plan.setup))
    return {each.name: halve(each.stage, each.folder, new / MODELS / each.place, images) for each in plan.networks}


def _files(folder: Path) -> list[str]:
    """All files of a folder, as paths seen from it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _checksums(folder: Path) -> dict[str, str]:
    return {path: sha256(folder / path) for path in _files(folder)}
