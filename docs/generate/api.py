"""The pages of the Python API: read off the source, so that comments behind fields, which hold shapes, are there."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

Definition = ast.FunctionDef | ast.ClassDef
# Page to what of the package stands on it: a module, or a room with all of its modules.
PAGES = {
    "explainer": ("explainer", "engine", "blob_listing", "blob_names", "loading", "errors"),
    **{room: (room,) for room in ("decisions", "counterfactual", "inversion", "layout", "scenes", "datasets")},
    **{room: (room,) for room in ("networks", "metrics", "config")},
}
INTRODUCTION = """# Python API

What is meant to be imported, read off the source. Shapes stand behind fields and in the descriptions: N pictures, K
blobs, H rows, W columns. What a user can put right is raised as `BlobexError`, with one sentence that
says what to do. Nothing here changes the parameters, gradient flags or modes of a model that it is given.
"""


def pages(root: Path) -> dict[str, str]:
    """Name to Markdown: `api`, and `api/<page>` for each of PAGES; `root` is the repository."""
    found, lines = dict[str, str](), list[str]()
    for name, parts in PAGES.items():
        files = [file for part in parts for file in _files(root / "blobex" / part)]
        found[f"api/{name}"] = "\n".join([f"# {name}\n", *(module(file, root) for file in files)])
        held = ", ".join(f"`{_dotted(file, root)}`" for file in files)
        lines.append(f"| [{name}](api/{name}.md) | {held} |")
    return {"api": "\n".join([INTRODUCTION, "| page | modules |", "|---|---|", *lines, ""])} | found


def module(path: Path, root: Path) -> str:
    """The public functions and classes of a file as Markdown."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    parts = [f"## {_dotted(path, root)}\n", prose(ast.get_docstring(tree) or "")]
    for node in public(tree):
        parts += [f"### {node.name}\n", f"```python\n{head(node, source)}\n```\n", prose(_docstring(node))]
        for inner in public(node) if isinstance(node, ast.ClassDef) else ():
            if isinstance(inner, ast.FunctionDef) and _docstring(inner):
                code = inspect.cleandoc(head(inner, source))
                parts += [f"#### {node.name}.{inner.name}\n", f"```python\n{code}\n```\n", prose(_docstring(inner))]
    return "\n".join(parts)


def public(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    """The functions and classes that stand in it, but for those whose name begins with an underscore."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def head(node: Definition, source: str) -> str:
    """The code before the body of a function; of a class also its fields, with their comments."""
    lines = source.splitlines()
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    inside = node.body[1:] if _docstring(node) else node.body
    code = lines[first - 1 : node.body[0].lineno - 1]
    if isinstance(node, ast.ClassDef):
        fields = [each for each in inside if isinstance(each, ast.AnnAssign | ast.Assign)]
        code += [line for each in fields for line in lines[each.lineno - 1 : each.end_lineno]]
    return "\n".join(code).strip("\n").rstrip(" :")


def prose(docstring: str) -> str:
    """A docstring as Markdown: examples as code, and no HTML."""
    apart = re.sub(r"(?m)^(>>> (?:.+\n?)+)", lambda found: f"```pycon\n{found[1].rstrip()}\n```\n", docstring)
    parts = re.split(r"(```(?:.|\n)*?```|`[^`]*`)", apart)
    return "".join(part if place % 2 else part.replace("<", "&lt;") for place, part in enumerate(parts)) + "\n"


def _docstring(node: Definition) -> str:
    return ast.get_docstring(node) or ""


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.glob("*.py") if file.name != "__init__.py")
    return [path.with_suffix(".py")]


def _dotted(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)
