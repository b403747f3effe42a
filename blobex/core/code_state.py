"""State of the code that a pipeline stage runs: one hash per module; docs/code-dependencies.md explains it."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from blobex.core.cache import keep, read_kept
from blobex.core.errors import BlobexError
from blobex.core.files import write_text

PACKAGE = Path(__file__).parents[1]
FOLDER = Path("code")  # beside dvc.yaml
LEFT_OUT = {  # modules and rooms that cannot change a result, and why
    "__init__.py": "exports names to users; modules of the package import each other by their full names",
    "config/messages.py": "words error messages",
    "config/sweeps.py": "parameters of sweeps, which no stage reads",
    "tracking": "records runs in MLflow, which no stage reads",
}
KEPT, MOST = "code.json", 1000  # file of parsed modules in the cache folder, and how many it holds: some versions
NO_EFFECT = {"ctx", "kind", "type_comment"}  # fields of a syntax tree that follow from the rest or change nothing


class Module(NamedTuple):
    """Dotted names that a file imports, and the short hash of its code."""

    imports: frozenset[str]
    digest: str


def describe_stage(stage: str, package: Path = PACKAGE) -> str:
    """Return the content of code/<stage>.txt: one line per module that the stage reaches, sorted by path."""
    hashes = module_hashes(package / "stages" / f"{stage}.py", package)
    return "".join(f"{path} {digest}\n" for path, digest in hashes.items())


def write_stage(stage: str, folder: Path = FOLDER, package: Path = PACKAGE) -> bool:
    """Bring code/<stage>.txt up to date; return True if it changed."""
    path, text = folder / f"{stage}.txt", describe_stage(stage, package)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def check_stage(stage: str, folder: Path = FOLDER, package: Path = PACKAGE) -> None:
    """Raise BlobexError if code/<stage>.txt exists, without which DVC runs no stage, but is out of date."""
    path = folder / f"{stage}.txt"
    if path.is_file() and path.read_text(encoding="utf-8") != describe_stage(stage, package):
        raise BlobexError(f"stage {stage} changed since {path} was written: run `make code`, then `dvc repro`")


def code_digest(start: Path, package: Path = PACKAGE) -> str:
    """Return one hash of all code that the module in file `start` reaches."""
    return hashlib.sha256(repr(module_hashes(start, package)).encode()).hexdigest()


def module_hashes(start: Path, package: Path = PACKAGE) -> dict[str, str]:
    """Return the hash of each module that a file imports, directly or not, itself included, by sorted path.

    Imports inside functions count. `LEFT_OUT` does not, nor does a package's own file that holds a docstring only.
    """
    kept = _kept_modules()
    before, reached, waiting = len(kept), dict[Path, str](), [start]
    while waiting:
        path = waiting.pop()
        if path not in reached and not any(path.is_relative_to(package / name) for name in LEFT_OUT):
            module = read_module(path)
            reached[path] = module.digest
            waiting += imported_files(module.imports, package)
    empty = _parse(b"").digest
    if len(kept) > before:
        keep(KEPT, dict(list(kept.items())[-MOST:]), replace=True)
    return {
        path.relative_to(package.parent).as_posix(): reached[path] for path in sorted(reached) if reached[path] != empty
    }


def imported_files(names: Iterable[str], package: Path = PACKAGE) -> list[Path]:
    """Return the files of the package that importing these dotted names runs, those of parent packages included."""
    files = set[Path]()
    for name in names:
        parts = name.split(".")
        if parts[0] == package.name:
            folders = [package.joinpath(*parts[1:end]) for end in range(1, len(parts) + 1)]
            files |= {folder / "__init__.py" for folder in folders} | {folders[-1].with_suffix(".py")}
    return sorted(path for path in files if path.is_file())


def read_module(path: Path) -> Module:
    """Parse a file.

    The hash is of the syntax tree without docstrings, other texts that stand alone, and descriptions of configuration
    fields. It does not depend on comments, layout and the version of Python. Of `from a import b`, both `a` and `a.b`
    count as imported. Raises ValueError if the file imports relatively.
    """
    try:
        return _parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


@cache
def _kept_modules() -> dict[str, Any]:
    """Return imports and hash of the modules parsed by this and by earlier processes, by the key of `_parse`."""
    kept = read_kept(KEPT)
    return kept if isinstance(kept, dict) else {}


@cache
def _parser() -> bytes:
    return Path(__file__).read_bytes()


@cache
def _parse(source: bytes) -> Module:
    """Parse a source, or take what is kept of the same source, parsed by the same code."""
    kept, key = _kept_modules(), hashlib.sha256(_parser() + source).hexdigest()
    try:
        imports, digest = kept[key]
        return Module(frozenset(map(str, imports)), str(digest))
    except (KeyError, TypeError, ValueError):
        module = _parsed(source)
    kept[key] = [sorted(module.imports), module.digest]
    return module


def _parsed(source: bytes) -> Module:
    tree, names = ast.parse(source), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError("it imports relatively: write the full name of the module")
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return Module(frozenset(names), hashlib.sha256(_tree_text(tree).encode()).hexdigest()[:16])


def _tree_text(node: object) -> str:
    if isinstance(node, list):
        return f"[{','.join(_tree_text(item) for item in node)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, value) for name, value in ast.iter_fields(node) if name not in NO_EFFECT)
    effective = ((name, _effective(node, value) if isinstance(value, list) else value) for name, value in fields)
    # Python versions differ in which empty fields a node has.
    inner = ",".join(f"{name}={_tree_text(value)}" for name, value in effective if value not in (None, []))
    return f"{type(node).__name__}({inner})"


def _effective(parent: ast.AST, items: list[object]) -> list[object]:
    """Leave out texts that change nothing: those that stand alone, and descriptions of configuration fields."""

    def changes_nothing(item: object) -> bool:
        if isinstance(item, ast.keyword):
            of_field = isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "Field"
            return of_field and item.arg == "description"
        if isinstance(parent, ast.JoinedStr):  # early 3.12 puts empty texts into some
            return isinstance(item, ast.Constant) and item.value == ""
        return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)

    return [item for item in items if not changes_nothing(item)]
