"""The model card of a release: card.md, filled with what was measured; the YAML in front is what model hubs read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import yaml

import blobex
from blobex.config.params import Params
from blobex.config.read import flatten, to_dict
from blobex.datasets.manifest import manifest_path
from blobex.release.contents import Contents
from blobex.release.registry import TrainingRun

TEMPLATE = Path(__file__).with_name("card.md")
TAGS = ["blobgan", "counterfactual-explanations", "explainable-ai", "driving", "safetensors"]
TASKS = {"decision": "image-classification", "parser": "image-segmentation"}  # stages that the hubs have a word for
ENDS = ("_low", "_high", "_count")  # of a measure's interval and number of values, behind its name
SCHEDULE = ("steps", "batch_size", "accumulate", "learning_rate", "halve_every")  # of a training's parameters
CHECKSUM = re.compile(r"^([0-9a-f]{64})  (.+)$", re.MULTILINE)


def card(
    name: str,
    params: Params,
    contents: Contents,
    runs: Mapping[str, TrainingRun],
    commit: str,
    license_text: str | None,
    checksums: Mapping[str, str],
) -> str:
    """The text of README.md.

    `runs` are by a network's name; `checksums`, the SHA-256 of the release's other files, by their paths.
    """
    size = params.setup(contents.setup)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        front=yaml.safe_dump(_front(name, params, contents, license_text), sort_keys=False).strip(),
        name=name,
        version=blobex.__version__,
        setup=contents.setup,
        height=size.height,
        width=size.width,
        networks=_networks(contents, runs),
        missing=", ".join(f"{each} ({reason})" for each, reason in contents.missing.items()) or "nothing",
        data=_data(params.data.root),
        seed=params.run.seed,
        precision=params.run.precision,
        commit=commit,
        trainings=_trainings(contents, params),
        measures="\n\n".join(f"### {part.name}\n\n{measure_table(part.measures())}" for part in contents.parts),
        checksums="\n".join(f"{checksum}  {path}" for path, checksum in checksums.items()),
    )


def listed(text: str) -> dict[str, str]:
    """The checksums that a card tells, by path."""
    return {path: checksum for checksum, path in CHECKSUM.findall(text)}


def _front(name: str, params: Params, contents: Contents, license_text: str | None) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "blobex", "tags": TAGS}
    if any(part.imported() for part in contents.networks):
        front |= {"license": "other", "license_name": "see-limits", "license_link": "README.md"}
    elif license_text:
        front["license"] = license_text.split()[0].lower()  # of "MIT License"
    known = [part for part in contents.networks if part.stage in TASKS and part.measures()]
    results = [
        {
            "task": {"type": TASKS[part.stage]},
            "dataset": {"type": params.data.source, "name": params.data.root, "config": part.name},
            "metrics": [{"type": key, "value": value} for key, value in part.measures().items()],
        }
        for part in known
    ]
    if results:
        front["metrics"] = sorted({key for part in known for key in part.measures()})
        front["model-index"] = [{"name": name, "results": results}]
    return front


def _networks(contents: Contents, runs: Mapping[str, TrainingRun]) -> str:
    rows = []
    for part in contents.networks:
        source, run = part.imported(), runs.get(part.name)
        origin = "trained with blobex, in no run that MLflow knows"
        if source:
            origin = f"imported from {source.get('file')}, SHA-256 {source.get('sha256')}"
        elif run:
            origin = f"MLflow run {run.run_id} of {run.minutes:.1f} minutes, at git commit {run.commit}"
        rows.append((part.name, part.description, origin))
    return table(["network", "its stage", "comes from"], rows)


def _data(root: str) -> str:
    """What the manifest of the data set says of it; the parameters that drew it are in there, too."""
    path = manifest_path(root)
    try:
        found = flatten(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return f"`{root}`, which has no manifest."
    return f"`{root}`, as {path.name} describes it:\n\n" + table(["", ""], [(key, str(found[key])) for key in found])


def _trainings(contents: Contents, params: Params) -> str:
    rows, used = [], flatten(to_dict(params.for_setup(contents.setup)))
    for part in contents.networks:
        names = {} if part.imported() else flatten(part.params)
        for place in (name.removesuffix(".steps") for name in names if name.endswith(".steps")):
            steps, batch, more, rate, halved = (used[f"{place}.{name}"] for name in SCHEDULE)
            rows.append((f"{place} {part.variant}", *map(str, (steps, batch * more, rate, halved or "never"))))
    return table(["training", "steps", "batch", "learning rate", "halved every so many steps"], rows)


def measure_table(measures: Mapping[str, float]) -> str:
    """One row per measure; an interval and the number of values behind it stand in the row of their mean."""
    rows = []
    for name, value in measures.items():
        if not any(name.endswith(end) and name.removesuffix(end) in measures for end in ENDS):
            low, high, count = (number(measures[name + end]) if name + end in measures else "" for end in ENDS)
            rows.append((f"`{name}`", number(value), f"{low} to {high}" if low and high else "", count))
    return table(["measure", "value", "95% interval", "values"], rows) if rows else "Not measured."


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar within a cell stays a bar."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def number(value: float) -> str:
    """Four significant digits, whole numbers as they are."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"
