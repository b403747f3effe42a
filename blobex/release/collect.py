"""What a release is made of: the networks of a setup, and what was measured of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from blobex.config.params import Params
from blobex.config.read import to_dict
from blobex.config.search import VARIANTS
from blobex.errors import BlobexError
from blobex.importing import METRICS, PROVENANCE
from blobex.loading import check_size
from blobex.networks import weights
from blobex.release.lineage import Stages, misfit

MODELS, REPORTS = Path("models"), Path("reports")
MEASURED = [("evaluate", ""), *(("explain", variant) for variant in VARIANTS), ("invert", ""), ("truth", "")]


@dataclass(frozen=True)
class Output:
    """What a stage leaves for a setup, and perhaps a variant."""

    stage: str
    setup: str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.stage} {self.variant}".strip()

    @property
    def place(self) -> Path:
        """Its folder, seen from the one of all stages."""
        return Path(self.stage, self.setup, self.variant)

    @property
    def key(self) -> str:
        """What DVC calls it."""
        return f"{self.stage}@{self.setup}" + (f"-{self.variant}" if self.variant else "")


@dataclass(frozen=True)
class Measured(Output):
    """An output that was measured."""

    measures: Mapping[str, float]
    recorded: bool  # whether dvc.lock tells what it was made of


@dataclass(frozen=True)
class Network(Measured):
    """A trained or imported network, and what its stage measured of it."""

    imported: Mapping[str, Any] | None  # where it comes from, if it was not trained here

    @property
    def folder(self) -> Path:
        return MODELS / self.place


def needed(params: Params, setup: str) -> tuple[list[Output], list[Output]]:
    """What `Explainer.load` needs with these parameters, and what it takes with others or for finer words."""
    own = params.explain.decision
    segments = params.invert.start == "segments" and params.search.mode == "fast"
    required = ["blobgan", "blobgan_pretrain" if segments else "encoder"]
    required += ["parser"] if segments or params.data.perceptual == "parser" else []
    others = [stage for stage in ("blobgan_pretrain", "encoder", "parser") if stage not in required]
    variants = [variant for variant in params.decision.variants if variant != own]
    return (
        [Output(stage, setup, "") for stage in required] + [Output("decision", setup, own)],
        [Output(stage, setup, "") for stage in others] + [Output("decision", setup, each) for each in variants],
    )


def collect(params: Params, setup: str, stages: Stages) -> tuple[list[Network], list[str]]:
    """The networks of a release, and the names of those that might be in it but are not there.

    BlobexError: one that is needed is missing, one was not measured, or is not of these parameters, of the setup's
    size or of the others.
    """
    required, others = needed(params, setup)
    present = [each for each in others if (MODELS / each.place / weights.CONFIG).is_file()]
    absent = [each.name for each in others if each not in present]
    return [_network(params, each, stages) for each in required + present], absent


def measured(params: Params, setup: str, stages: Stages) -> tuple[list[Measured], dict[str, str]]:
    """What the later stages measured, and why nothing is told of the others, by their names."""
    found, missing = list[Measured](), dict[str, str]()
    for stage, variant in MEASURED:
        output = Output(stage, setup, variant)
        path, against = REPORTS / output.place / METRICS, misfit(stages, output.key, to_dict(params))
        if not path.is_file():
            missing[output.name] = "not measured"
        elif against:
            missing[output.name] = f"measured before something changed ({against})"
        else:
            found.append(Measured(stage, setup, variant, read_measures(path), output.key in stages))
    return found, missing


def read_measures(path: Path) -> dict[str, float]:
    """The numbers of a metrics.json; BlobexError if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(value) for name, value in content.items()}
    except FileNotFoundError as error:
        raise BlobexError(f"{path} is missing: run its stage to the end, so that the model is measured") from error
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BlobexError(f"{path} is damaged: run its stage again") from error


def _network(params: Params, output: Output, stages: Stages) -> Network:
    folder, size = MODELS / output.place, params.setup(output.setup)
    check_size(folder, output.stage, output.setup, size.height, size.width)
    if not (folder / weights.WEIGHTS).is_file():
        raise BlobexError(f"{folder / weights.WEIGHTS} is missing: run `dvc repro {output.key}` or `dvc pull`")
    measures = read_measures(folder / METRICS)
    try:
        text = (folder / PROVENANCE).read_text(encoding="utf-8")
        imported = dict(yaml.safe_load(text))
    except FileNotFoundError:
        imported = None
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise BlobexError(f"{folder / PROVENANCE} is damaged: import the weights again") from error
    against = misfit(stages, output.key, None if imported else to_dict(params))
    if against:
        raise BlobexError(f"{against}: run `dvc repro {output.key}`, or `dvc commit -f` that stage if it may stay so")
    return Network(output.stage, output.setup, output.variant, measures, output.key in stages, imported)
