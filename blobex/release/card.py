"""The model card of a release: its README.md. The YAML front matter is what model hubs read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

import blobex
from blobex.config.params import Params
from blobex.config.read import flatten
from blobex.config.training import Training, WitnessParams
from blobex.core.files import read_json
from blobex.datasets.manifest import manifest_path
from blobex.release.contents import NETWORKS, Contents, Part
from blobex.release.registry import TrainingRun

TAGS = ["blobgan", "counterfactual-explanations", "explainable-ai", "driving", "safetensors"]
TASKS = {"decision": "image-classification", "parser": "image-segmentation"}  # stages with a task of the hubs
ENDINGS = ("_low", "_high", "_count")  # of a measure's interval and number of values
CHECKSUM = re.compile(r"^([0-9a-f]{64})  (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Origin:
    """The origin of a release."""

    runs: Mapping[str, TrainingRun]  # by the network's name
    commit: str  # of git
    license_text: str | None


def card(name: str, params: Params, contents: Contents, origin: Origin, checksums: Mapping[str, str]) -> str:
    """Render README.md; `checksums` are the SHA-256 of the release's other files by path."""
    loader = PackageLoader("blobex.release")
    # Markdown, not HTML: cells of tables are escaped by the filter.
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"cell": _cell}
    front = _front(name, params, contents, origin.license_text)
    sections, trained = params.for_setup(contents.setup), [part for part in contents.networks if not part.provenance()]
    return environment.get_template("card.md").render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        name=name,
        version=blobex.__version__,
        size=params.setup(contents.setup),
        contents=contents,
        descriptions=NETWORKS,
        runs=origin.runs,
        commit=origin.commit,
        params=params,
        data=_data(params.data.root),
        data_file=manifest_path(params.data.root).name,
        trainings=[pair for part in trained for pair in _trainings(part, getattr(sections, part.stage))],
        measures={part.name: measure_rows(part.measures()) for part in contents.parts},
        checksums=checksums,
    )


def _trainings(part: Part, section: Any) -> list[tuple[str, Training]]:
    """Return name and parameters of the trainings of a network; a witness has two."""
    if isinstance(section, WitnessParams):
        networks = {"decision": section.decision.training, "reading": section.reading.training}
        return [(f"{part.stage}.{name}.training", training) for name, training in networks.items()]
    return [(f"{part.stage}.training {part.variant}".strip(), section.training)]


def listed_checksums(text: str) -> dict[str, str]:
    """Return the checksums in the text of a card, by path."""
    return {path: checksum for checksum, path in CHECKSUM.findall(text)}


def measure_rows(measures: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    """Return name, value, interval and number of values of every measure; endings join the row of their mean."""
    rows = []
    for name, value in measures.items():
        if any(name.endswith(ending) and name.removesuffix(ending) in measures for ending in ENDINGS):
            continue
        low, high, count = (_number(measures[name + end]) if name + end in measures else "" for end in ENDINGS)
        rows.append((name, _number(value), f"{low} to {high}" if low and high else "", count))
    return rows


def _front(name: str, params: Params, contents: Contents, license_text: str | None) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "blobex", "tags": TAGS}
    if any(part.provenance() for part in contents.networks):
        front |= {"license": "other", "license_name": "see-limits", "license_link": "README.md"}
    elif license_text:
        front["license"] = license_text.split()[0].lower()  # of "MIT License"
    measured = [part for part in contents.networks if part.stage in TASKS and part.measures()]
    if measured:
        front["metrics"] = sorted({key for part in measured for key in part.measures()})
        front["model-index"] = [{"name": name, "results": [_result(part, params) for part in measured]}]
    return front


def _result(part: Part, params: Params) -> dict[str, Any]:
    return {
        "task": {"type": TASKS[part.stage]},
        "dataset": {"type": params.data.source, "name": params.data.root, "config": part.name},
        "metrics": [{"type": key, "value": value} for key, value in part.measures().items()],
    }


def _data(root: str) -> Sequence[tuple[str, Any]]:
    """Return the entries of the data set's manifest by dotted names; nothing without a manifest."""
    try:
        return list(flatten(read_json(manifest_path(root))).items())
    except (OSError, ValueError, AttributeError):
        return []


def _cell(text: object) -> str:
    return str(text).replace("|", "\\|")


def _number(value: float) -> str:
    """Format with four significant digits, integers in full."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"
