"""Contents of a release: the networks of a setup, and the reports that measured them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from blobex.config.explain import VARIANTS
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.networks.import_weights import PROVENANCE
from blobex.networks.segment_encoder import BLOBGAN, KIND
from blobex.networks.weights import CONFIG, WEIGHTS
from blobex.tracking.versions import stage_changes

METRICS = "metrics.json"
MEASURES = "measures.json"  # of stages with more measures than metrics.json has
NETWORKS = {
    "parser": "scene parser: boxes, semantic, panoptic and drivable maps",
    "decision": "decision model; variants other than plain have a planted shortcut",
    "control": "control model: steering and brake, a regression",
    "blobgan_pretrain": "BlobGAN after pretraining on segments, encoder of segments, example images",
    "blobgan": "BlobGAN: layout network and generator",
    "encoder_pretrain": "encoder after training on generated images",
    "encoder": "encoder after training on generated and real images",
    "witness": "second decision model and parser, which only measure explanations",
    "repair": "decision model with a planted shortcut, repaired by its own counterfactuals",
}
REPORTS = ("invert", "explain", "evaluate", "truth")


@dataclass(frozen=True)
class Part:
    """Output of one DVC stage for a setup: a network in models/ or measures in reports/."""

    stage: str
    setup: str
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.stage} {self.variant}".strip()

    @property
    def dvc_name(self) -> str:
        return f"{self.stage}@{self.setup}" + (f"-{self.variant}" if self.variant else "")

    @property
    def is_network(self) -> bool:
        return self.stage in NETWORKS

    @property
    def folder(self) -> Path:
        return Path("models" if self.is_network else "reports", self.stage, self.setup, self.variant)

    @property
    def outputs(self) -> list[Path]:
        networks = [self.folder] if self.is_network else []
        if self.stage == KIND:
            networks.insert(0, self.folder / BLOBGAN)
        return [folder / name for folder in networks for name in (CONFIG, WEIGHTS)] + [self.folder / METRICS]

    @property
    def files(self) -> list[Path]:
        """The files that a release copies."""
        others = [self.folder / MEASURES, *([self.folder / PROVENANCE] if self.is_network else [])]
        return self.outputs + [path for path in others if path.is_file()]

    def provenance(self) -> dict[str, Any]:
        """Return the source of imported weights; empty for a trained network. BlobexError: the file is damaged."""
        path = self.folder / PROVENANCE
        try:
            return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path in self.files else {}
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise BlobexError(f"{path} is damaged: import the weights again") from error

    def measures(self) -> dict[str, float]:
        """Return the numbers of measures.json, or, where there is none, of metrics.json. BlobexError: it is damaged."""
        path = self.folder / MEASURES
        path = path if path.is_file() else self.folder / METRICS
        try:
            return {str(name): float(value) for name, value in read_json(path).items()}
        except (OSError, ArithmeticError, ValueError, AttributeError, TypeError) as error:
            raise BlobexError(f"{path} is damaged: run `dvc pull`, or `dvc repro {self.dvc_name}`") from error


@dataclass(frozen=True)
class Contents:
    """The parts of a release, and the reason why others are missing, by their names."""

    setup: str
    networks: list[Part]
    reports: list[Part]
    missing: dict[str, str]

    @property
    def parts(self) -> list[Part]:
        return self.networks + self.reports

    def metrics(self) -> dict[str, float]:
        """Return all measures by names such as decision.plain.accuracy."""
        measures = ((part.name.replace(" ", "."), part.measures()) for part in self.parts)
        return {f"{part}.{name}": value for part, values in measures for name, value in values.items()}


def parts_of(params: Params, setup: str) -> Iterator[Part]:
    """Yield every part that a setup can have, in the order of dvc.yaml."""
    variants = {"decision": params.decision.variants, "explain": VARIANTS, "repair": params.repair.rules}
    setups = {name: getattr(params, name).setups for name in ("control", "truth", "repair")}
    for stage in (*NETWORKS, *REPORTS):
        if setup in setups.get(stage, [setup]):
            yield from (Part(stage, setup, variant) for variant in variants.get(stage, [""]))


def collect(params: Params, setup: str) -> Contents:
    """Collect the parts of a setup that exist. Reports that are out of date are left out.

    Raises:
        BlobexError: if a network is incomplete, or is not what dvc.lock records for the present parameters and code.
    """
    contents = Contents(setup, [], [], {})
    parts = list(parts_of(params, setup))
    present = [part for part in parts if any(path.is_file() for path in part.outputs)]
    changes = stage_changes([part.dvc_name for part in present])
    for part in parts:
        absent = next((path for path in part.outputs if not path.is_file()), None)
        change = changes.get(part.dvc_name)
        if part not in present:
            contents.missing[part.name] = "not trained" if part.is_network else "not measured"
        elif part.is_network and change:
            name = part.dvc_name
            raise BlobexError(f"{change}: run `dvc repro {name}`, or `dvc commit -f {name}` if its results still hold")
        elif part.is_network and absent:
            raise BlobexError(f"{absent} is missing: run `dvc pull`, or `dvc repro {part.dvc_name}`")
        elif part.is_network:
            contents.networks.append(part)
        elif change:
            contents.missing[part.name] = change
        else:
            contents.reports.append(part)
    return contents
