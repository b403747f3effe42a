"""All that a card tells, gathered from files that say it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blobex
from blobex.config.params import Params
from blobex.release.collect import Measured, Network
from blobex.release.half import Halved
from blobex.release.registry import TrainingRun
from blobex.tracking import dvc_hash

SCENES = Path("data/scenes")  # what the stage scenes draws
LICENSES = {"MIT License": "mit", "Apache License": "apache-2.0"}  # first line to what the hub calls it


@dataclass(frozen=True)
class Facts:
    """A release, but for its files."""

    name: str  # of the release
    setup: str
    params: Params
    networks: Sequence[Network]
    absent: Sequence[str]  # names of networks that might be in it
    measured: Sequence[Measured]
    missing: Mapping[str, str]  # what was not measured, and why
    runs: Mapping[str, TrainingRun]  # by a network's name
    halved: Mapping[str, Halved]  # by a network's name; empty if all are stored as they were trained
    license: str | None  # as the hub calls it; None where there is no LICENSE
    commit: str  # that the project was at when this was released; "none" outside of git
    data_hash: str  # as DVC knows the data set, or "unversioned"

    @property
    def synthetic(self) -> bool:
        """Whether the pictures are those that blobex draws."""
        return Path(self.params.data.root) == SCENES and self.params.data.source == "bdd100k"

    @property
    def imported(self) -> list[Network]:
        return [network for network in self.networks if network.imported is not None]

    def metrics(self) -> dict[str, float]:
        """All measures, by names such as decision.plain.accuracy."""
        outputs: list[Measured] = [*self.networks, *self.measured]
        return {
            f"{output.name.replace(' ', '.')}.{name}": value
            for output in outputs
            for name, value in output.measures.items()
        }

    def tags(self) -> dict[str, str]:
        """What is to be read off a version in MLflow."""
        return {
            "setup": self.setup,
            "blobex": blobex.__version__,
            "commit": self.commit,
            "data": self.data_hash,
            "half": " ".join(name for name, each in self.halved.items() if each.half) or "none",
            "missing": " ".join([*self.absent, *self.missing]) or "none",
        }


def license_file() -> Path | None:
    """The LICENSE of the project that this code is part of."""
    path = Path(blobex.__file__).parents[1] / "LICENSE"
    return path if path.is_file() else None


def license_name(path: Path | None, imported: bool) -> str | None:
    """What the hub calls a licence; "other" for one it may not know, and for weights that came from elsewhere."""
    if path is None:
        return None
    first = next(iter(path.read_text(encoding="utf-8").strip().splitlines()), "").strip()
    return "other" if imported else LICENSES.get(first, "other")


def commit() -> str:
    """The git commit, with -dirty behind it if files differ from it; "none" outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "none"


def data_hash(params: Params) -> str:
    return dvc_hash(Path(params.data.root))


def trainings(params: Params, stage: str) -> list[tuple[str, Any]]:
    """The parameters of each training that a stage's network went through, by what it is called."""
    found: dict[str, list[tuple[str, Any]]] = {
        "blobgan_pretrain": [
            ("blobgan_pretrain, painting", params.blobgan_pretrain.training),
            ("blobgan_pretrain, layouts", params.blobgan_pretrain.layout),
        ],
        "encoder": [
            ("encoder, generated pictures", params.encoder_pretrain.training),
            ("encoder, real pictures too", params.encoder.training),
        ],
    }
    return found.get(stage) or [(stage, getattr(params, stage).training)]
