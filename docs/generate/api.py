"""Pages of the Python API, generated from the source with the comments of fields, which give shapes."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

Definition = ast.FunctionDef | ast.ClassDef
# Rooms of the package with a page of their own.
PAGES = (
    "explain",
    "decisions",
    "counterfactual",
    "inversion",
    "perception",
    "layout",
    "scenes",
    "datasets",
    "networks",
    "metrics",
    "config",
)
INTRODUCTION = """# Python API

Generated from the source. Shapes are in comments of fields and in the descriptions: N images, K blobs, H rows, W
columns. Errors that a user can correct are raised as `BlobexError`, with one sentence that says what to do. The
parameters, gradient flags and modes of a model that is passed in are left unchanged.
"""


def pages(root: Path) -> dict[str, str]:
    """Return Markdown by page name: `api`, and `api/<room>` for each of PAGES; `root` is the repository."""
    content, lines = dict[str, str](), list[str]()
    for name in PAGES:
        files = _files(root / "blobex" / name)
        content[f"api/{name}"] = "\n".join([f"# {name}\n", *(module(file, root) for file in files)])
        modules = ", ".join(f"`{_dotted(file, root)}`" for file in files)
        lines.append(f"| [{name}](api/{name}.md) | {modules} |")
    return {"api": "\n".join([INTRODUCTION, "| page | modules |", "|---|---|", *lines, ""])} | content


def module(path: Path, root: Path) -> str:
    """Return the public functions and classes of a file as Markdown."""
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
    """Yield the functions and classes of a module or class whose names do not begin with an underscore."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def head(node: Definition, source: str) -> str:
    """Return the code before the body of a function, or of a class with its fields and their comments."""
    lines = source.splitlines()
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    inside = node.body[1:] if _docstring(node) else node.body
    code = lines[first - 1 : node.body[0].lineno - 1]
    if isinstance(node, ast.ClassDef):
        fields = [statement for statement in inside if isinstance(statement, ast.AnnAssign | ast.Assign)]
        code += [line for field in fields for line in lines[field.lineno - 1 : field.end_lineno]]
    return "\n".join(code).strip("\n").rstrip(" :")


def prose(docstring: str) -> str:
    """Return a docstring as Markdown, with examples as code and without HTML."""
    fenced = re.sub(r"(?m)^(>>> (?:.+\n?)+)", lambda match: f"```pycon\n{match[1].rstrip()}\n```\n", docstring)
    parts = re.split(r"(```(?:.|\n)*?```|`[^`]*`)", fenced)  # every second part is code
    return "".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts)) + "\n"


def _docstring(node: Definition) -> str:
    return ast.get_docstring(node) or ""


def _files(room: Path) -> list[Path]:
    return sorted(file for file in room.glob("*.py") if file.name != "__init__.py")


def _dotted(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)
