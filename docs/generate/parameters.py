"""Page of all parameters: descriptions and ranges from blobex.config, values from the profiles."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from blobex.config.messages import Schema, non_null, resolved, values
from blobex.config.params import Params
from blobex.config.profile import load_profile

WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
PROFILES = ("synthetic", "bdd100k")
INTRODUCTION = """# Parameters

`params.yaml` holds all of these keys and no others; a key that is missing, unknown or out of its range is an error
that names it. The second column is the default (`profiles/synthetic.yaml`), the third the value of
`profiles/bdd100k.yaml` where it differs. A section with the name of a [stage](stages.md) holds that stage's
parameters. Any key can be set for one experiment: `dvc exp run -S blobgan.training.steps=100`.
"""


@dataclass(frozen=True)
class Row:
    """One key; a key that holds other keys has no values."""

    key: str  # dotted
    values: tuple[str, ...]  # in each profile, as YAML
    allowed: str
    meaning: str


def page(root: Path) -> str:
    """Return the page as Markdown; `root` is the repository."""
    trees = [asdict(load_profile(name, root / "profiles")) for name in PROFILES]
    schema = TypeAdapter(Params).json_schema()
    parts = [INTRODUCTION]
    for section, kind in typing.get_type_hints(Params).items():
        parts += [f"## {section}\n", f"{inspect.getdoc(kind)}\n"]
        parts += ["| key | default | bdd100k | allowed | meaning |", "|---|---|---|---|---|"]
        child = resolved(schema["properties"][section], schema["$defs"])
        parts += [_line(row) for row in rows(child, [tree[section] for tree in trees], f"{section}.", schema["$defs"])]
        parts += [""]
    return "\n".join(parts)


def rows(schema: Schema, trees: list[Any], prefix: str, definitions: dict[str, Schema]) -> Iterator[Row]:
    """Yield a row for every key of a JSON schema, and for the keys of the mappings in it."""
    for name, property_ in schema["properties"].items():
        key, child = f"{prefix}{name}", resolved(property_, definitions)
        children, meaning = [tree[name] for tree in trees], child.get("description", "")
        if "properties" in child:
            yield Row(key, (), "", meaning)
            yield from rows(child, children, f"{key}.", definitions)
        else:
            yield Row(key, tuple(map(_as_yaml, children)), allowed(child, definitions), meaning)


def allowed(schema: Schema, definitions: dict[str, Schema]) -> str:
    """Describe the values that a JSON schema allows."""
    if "anyOf" in schema:
        return f"{allowed(non_null(schema), definitions)}, or `null`"
    schema = resolved(schema, definitions)
    if options := values(schema):
        return ", ".join(f"`{option}`" for option in options)
    if schema["type"] == "array":
        return f"list of: {allowed(schema['items'], definitions)}"
    if "properties" in schema:
        return f"`{{{', '.join(schema['properties'])}}}`"
    if schema["type"] == "object":
        keys = allowed(schema.get("propertyNames", {"type": "integer"}), definitions)
        return f"mapping of: {keys}; to: {allowed(schema['additionalProperties'], definitions)}"
    limits = f" from {_number(schema['minimum'])} to {_number(schema['maximum'])}" if "minimum" in schema else ""
    return WORDS[schema["type"]] + limits


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("...\n").strip()


def _line(row: Row) -> str:
    first, other = row.values or ("", "")
    cells = [f"`{row.key}`", first and f"`{first}`", f"`{other}`" if other != first else "", row.allowed, row.meaning]
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"
