"""Public functions that only compute have an example in their docstring, which pytest runs as a doctest."""

import ast

import pytest
from imports import PACKAGE

MODULES = (
    *("layout/blobs", "layout/splat"),
    *("metrics/agreement", "metrics/feature_sets", "metrics/interval", "perception/colours"),
    *("scenes/render", "scenes/rules", "scenes/sample"),
)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_has_an_example(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    missing = [node.name for node in functions if ">>> " not in (ast.get_docstring(node) or "")]
    assert functions and not missing, f"blobex/{module}.py: give {', '.join(missing)} a doctest"
