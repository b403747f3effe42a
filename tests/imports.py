"""What each module of blobex imports, read off its source, inside functions too."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def path_of(module):
    """The file of a dotted module name, or None if it names no module of blobex."""
    base = ROOT / Path(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(path):
    """Dotted names that a file imports; blobex's own are modules, never names within one."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in deeper if name.startswith("blobex") and path_of(name)}
            names |= modules or {node.module}
    return frozenset(names)


def reachable(path):
    """All files of blobex that a file imports, directly or not, itself included."""
    found, waiting = set(), [path]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += [path_of(name) for name in imported(current) if name.startswith("blobex") and path_of(name)]
    return found
