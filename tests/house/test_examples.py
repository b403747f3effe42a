"""Public functions that only compute show an example, which pytest runs with the doctests (see pyproject.toml)."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHOWN = (  # all of whose public functions have one
    *("layout/blobs", "layout/splat", "layout/jitter", "training/losses", "scenes/rules", "scenes/sample"),
    *(
        "perception/colours",
        "layout/published_splat",
        "metrics/cout",
        "metrics/diversity",
        "metrics/agreement",
        "metrics/halves",
        "metrics/interval",
    ),
    *("metrics/features", "metrics/kernel", "metrics/manifold", "scenes/render"),
)


def examples(path):
    """Public function to whether its docstring has an example."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return {node.name: ">>> " in (ast.get_docstring(node) or "") for node in functions}


@pytest.mark.parametrize("module", SHOWN)
def test_every_public_function_has_an_example(module):
    missing = [name for name, shown in examples(ROOT / "blobex" / f"{module}.py").items() if not shown]
    assert not missing, f"blobex/{module}.py: give {', '.join(missing)} a doctest"


def test_pytest_runs_all_examples():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "--doctest-modules" in options["addopts"]
    run = [ROOT / path for path in options["testpaths"]]
    shown = [path for path in (ROOT / "blobex").rglob("*.py") if any(examples(path).values())]
    assert all(any(path.is_relative_to(each) for each in run) for path in shown)
    assert sum(sum(examples(path).values()) for path in shown) >= 40
