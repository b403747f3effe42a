"""Reference page of the stages, generated from dvc.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

INTRODUCTION = """# Stages

`dvc repro` runs every stage whose code, data or parameters changed, in this order; `dvc repro NAME` runs the stage NAME
and those that it needs. A stage, its module in `blobex/stages/`, its section of `params.yaml` and its MLflow experiment
share one name. Each stage also depends on its code, see [code dependencies](../code-dependencies.md).
"""


def page(root: Path) -> str:
    """Return the page as Markdown; `root` is the repository."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    sections = set(yaml.safe_load((root / "profiles" / "synthetic.yaml").read_text(encoding="utf-8")))
    return "\n".join([INTRODUCTION, *(stage(name, entry, sections) for name, entry in stages.items())])


def stage(name: str, entry: dict[str, Any], sections: set[str]) -> str:
    """Return a stage as Markdown; `sections` are those of params.yaml."""
    matrix = entry.get("matrix", {})
    full_name = f"{name}@{'-'.join(f'<{key}>' for key in matrix)}" if matrix else name
    data = [path for path in map(_path, entry["deps"]) if not path.startswith("code/")]
    outputs = [_path(output) for kind in ("outs", "metrics", "plots") for output in entry.get(kind, ())]
    facts = {
        "name": f"`{full_name}`" + "".join(f"; {key}: {_choices(choice)}" for key, choice in matrix.items()),
        "command": f"`{_plain(entry['cmd'])}`",
        "reads": _listed(data) or "nothing",
        "parameters": ", ".join(_linked(_plain(key), sections) for key in entry.get("params", ())),
        "writes": _listed(outputs),
    }
    lines = [f"| {fact} | {value} |" for fact, value in facts.items()]
    return "\n".join([f"## {name}\n", f"{entry['desc']}.\n", "| | |", "|---|---|", *lines, ""])


def _path(entry: str | dict[str, Any]) -> str:
    """Return the path of an entry of dvc.yaml, which may be a mapping from the path to options."""
    return _plain(entry if isinstance(entry, str) else next(iter(entry)))


def _plain(text: str) -> str:
    """Replace DVC's templates: `${item.setup}` becomes `<setup>`."""
    return text.replace("${item.", "<").replace("${", "<").replace("}", ">")


def _choices(choice: str | list[str]) -> str:
    return f"those of `{_plain(choice).strip('<>')}`" if isinstance(choice, str) else ", ".join(choice)


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(f"`{path}`" for path in dict.fromkeys(paths))


def _linked(key: str, sections: set[str]) -> str:
    section = key.split(".")[0]
    return f"[`{key}`](parameters.md#{section})" if section in sections else f"`{key}`"
