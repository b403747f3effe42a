"""Whether the package computes what it did at another commit, but for comments and docstrings.

python tests/same_code.py main
"""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def meaning(source):
    """The syntax tree of a module without its docstrings, as text; comments are in no tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[ast.get_docstring(node, clean=False) is not None :]
    return ast.dump(tree)


def changed(commit):
    """The files of blobex whose meaning differs from that at a commit, or that are in one of the two only."""

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout

    def alike(name):
        return meaning((ROOT / name).read_text()) == meaning(git("show", f"{commit}:{name}"))

    now = {str(path.relative_to(ROOT)) for path in (ROOT / "blobex").rglob("*.py")}
    then = {name for name in git("ls-tree", "-r", "--name-only", commit, "blobex").split() if name.endswith(".py")}
    return sorted({*(now ^ then), *(name for name in now & then if not alike(name))})


if __name__ == "__main__":
    found = changed(sys.argv[1])
    print("\n".join(found) or f"blobex computes what it did at {sys.argv[1]}")
    sys.exit(bool(found))
