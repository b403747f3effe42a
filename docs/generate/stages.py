"""The page of stages: read off dvc.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

INTRODUCTION = """# Stages

`dvc repro` runs, in this order, every stage whose code, data or parameters changed; `dvc repro NAME` what one of them
needs, with the name that stands below. A stage, its module in `blobex/stages/`, its section of `params.yaml` and its
MLflow experiment share one word. Code is left out below: a stage depends on every module that it imports.
"""


def page(root: Path) -> str:
    """Return the page as Markdown; `root` is the repository."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    sections = set(yaml.safe_load((root / "profiles" / "synthetic.yaml").read_text(encoding="utf-8")))
    return "\n".join([INTRODUCTION, *(stage(name, told, sections) for name, told in stages.items())])


def stage(name: str, told: dict[str, Any], sections: set[str]) -> str:
    """A stage as Markdown; `sections` are those of params.yaml."""
    matrix = told.get("matrix", {})
    called = f"{name}@{'-'.join(f'<{key}>' for key in matrix)}" if matrix else name
    data = [each for each in map(_path, told["deps"]) if not each.startswith("code/")]
    outputs = [_path(each) for kind in ("outs", "metrics", "plots") for each in told.get(kind, ())]
    facts = {
        "name": f"`{called}`" + "".join(f"; {key}: {_choices(choice)}" for key, choice in matrix.items()),
        "command": f"`{_plain(told['cmd'])}`",
        "reads": _listed(data) or "nothing",
        "parameters": ", ".join(_linked(_plain(each), sections) for each in told.get("params", ())),
        "writes": _listed(outputs),
    }
    lines = [f"| {fact} | {value} |" for fact, value in facts.items()]
    return "\n".join([f"## {name}\n", f"{told['desc']}.\n", "| | |", "|---|---|", *lines, ""])


def _path(entry: str | dict[str, Any]) -> str:
    """The path of an entry of dvc.yaml, which may carry settings."""
    return _plain(entry if isinstance(entry, str) else next(iter(entry)))


def _plain(text: str) -> str:
    """A template of DVC as people read it: `<setup>` for `${item.setup}`."""
    return text.replace("${item.", "<").replace("${", "<").replace("}", ">")


def _choices(choice: str | list[str]) -> str:
    return f"those of `{_plain(choice).strip('<>')}`" if isinstance(choice, str) else ", ".join(choice)


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(f"`{path}`" for path in dict.fromkeys(paths))


def _linked(key: str, sections: set[str]) -> str:
    section = key.split(".")[0]
    return f"[`{key}`](parameters.md#{section})" if section in sections else f"`{key}`"
