"""The page of parameters: names and ranges from blobex.config, values and comments from the profiles."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import tokenize
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from blobex.config.limits import Within
from blobex.config.params import Params

SCALARS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
INTRODUCTION = """# Parameters

`params.yaml` holds all of these keys and no others; one that is missing, unknown or out of its range is an error that
names it. The second column is the default (`profiles/synthetic.yaml`), the third is `profiles/bdd100k.yaml` where it
differs. A section with the name of a stage is that [stage](stages.md)'s; any key can be set for one experiment:
`dvc exp run -S blobgan.training.steps=100`.
"""


@dataclass(frozen=True)
class Row:
    """One key; a key that holds others has no value."""

    key: str  # dotted
    values: tuple[str, ...]  # in each profile, as YAML
    allowed: str
    meaning: str


def page(root: Path) -> str:
    """The page as Markdown; `root` is the repository."""
    texts = [(root / "profiles" / f"{name}.yaml").read_text(encoding="utf-8") for name in ("synthetic", "bdd100k")]
    trees, notes = [yaml.safe_load(text) for text in texts], yaml_comments(texts[0])
    parts = [INTRODUCTION]
    for section, kind in typing.get_type_hints(Params).items():
        parts += [f"## {section}\n"]
        parts += [f"{_sentence(notes[section])}\n"] if section in notes else []
        parts += ["| key | default | bdd100k | allowed | meaning |", "|---|---|---|---|---|"]
        parts += [_line(row) for row in rows(kind, [tree[section] for tree in trees], notes, f"{section}.")] + [""]
    return "\n".join(parts)


def rows(kind: type, trees: list[Any], notes: dict[str, str], prefix: str) -> Iterator[Row]:
    """A row for every key of a dataclass, and for those of the dataclasses within it."""
    hints, said = typing.get_type_hints(kind, include_extras=True), field_comments(kind)
    for field in dataclasses.fields(kind):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        values, meaning = [tree[field.name] for tree in trees], said.get(field.name, "")
        if not dataclasses.is_dataclass(hint):
            yield Row(key, tuple(map(_as_yaml, values)), allowed(hint), meaning or notes.get(key, ""))
            continue
        if meaning:
            yield Row(key, (), "", meaning)
        yield from rows(typing.cast(type, hint), values, notes, f"{key}.")


def allowed(hint: Any, limits: str = "") -> str:
    """What a parameter of this type may be, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return allowed(arguments[0], "".join(_range(each) for each in arguments[1:] if isinstance(each, Within)))
    if origin in (types.UnionType, typing.Union):
        return f"{allowed(arguments[0], limits)}, or `null`"
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is list:
        return f"list of: {allowed(arguments[0], limits)}"
    if origin is dict:
        return f"mapping of: {allowed(arguments[0])}; to: {allowed(arguments[1], limits)}"
    if dataclasses.is_dataclass(hint):
        return f"`{{{', '.join(each.name for each in dataclasses.fields(hint))}}}`"
    return SCALARS[hint] + limits


def field_comments(kind: type) -> dict[str, str]:
    """The comment behind each field of a dataclass, those that it inherits included."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if dataclasses.is_dataclass(each):
            fields, comments = _parsed(inspect.getsource(typing.cast(type, each)))
            found |= {name: comments[line] for name, line in fields.items() if line in comments}
    return found


@cache
def _parsed(source: str) -> tuple[dict[str, int], dict[int, str]]:
    """The last line of each field of a class, and the comment of each line."""
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    return {typing.cast(ast.Name, each.target).id: each.end_lineno or 0 for each in fields}, comments


def yaml_comments(text: str) -> dict[str, str]:
    """Dotted key to the comment behind it; of several keys on one line it is the first one's."""
    lines, found, seen = text.splitlines(), dict[str, str](), set[int]()

    def walk(node: yaml.Node | None, prefix: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line
            comment = re.search(r" # (.*)$", lines[line])
            if comment and line not in seen:
                found[f"{prefix}{key.value}"] = comment[1]
            seen.add(line)
            walk(value, f"{prefix}{key.value}.")

    walk(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return found


def _range(limits: Within) -> str:
    low, high = (f"{each:,.0f}" if float(each).is_integer() else f"{each:g}" for each in vars(limits).values())
    return f" from {low} to {high}"


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("...\n").strip()


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _line(row: Row) -> str:
    first, other = row.values or ("", "")
    cells = [f"`{row.key}`", first and f"`{first}`", f"`{other}`" if other != first else "", row.allowed, row.meaning]
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"
