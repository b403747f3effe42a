"""The import order of the house, and the dependencies of the stages."""

import pytest
import yaml
from imports import ROOT, imported, name_of, reachable

FLOORS = """
    core
    config scenes
    datasets layout tracking
    networks
    decisions training perception optim
    inversion counterfactual
    metrics
    explain
    truth report sweeps app release benchmark
    stages cli
"""
FLOOR = {room: number for number, line in enumerate(FLOORS.strip().splitlines()) for room in line.split()}
MODULES = sorted((ROOT / "blobex").rglob("*.py"))
# package: the top-level packages that it must not know
FORBIDDEN = {"scenes": {"torch"}, "report": {"torch"}, "config": {"torch"}}
ONLY_IN = {
    "pytorch_lightning": "training",
    "mlflow": "tracking",
    "optuna": "sweeps",
    "boto3": "tracking",
    "dvc": "tracking",
    "starlette": "app",
    "uvicorn": "app",
}
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def room(name):
    return name.split(".")[1] if "." in name else None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_only_from_floors_below(path):
    here = room(name_of(path))
    for name in imported(path):
        there = room(name) if name.startswith("blobex.") else None
        if here and there and here != there:
            assert FLOOR[there] < FLOOR[here], f"{name_of(path)} must not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_heavy_packages_stay_in_their_rooms(path):
    here = room(name_of(path))
    for name in imported(path):
        package = name.split(".")[0]
        assert package not in FORBIDDEN.get(here, set()), f"{name_of(path)} must not import {package}"
        assert ONLY_IN.get(package, here) == here, f"only blobex.{ONLY_IN[package]} may import {package}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_deps_cover_its_imports(stage):
    start = ROOT / "blobex" / "stages" / f"{stage}.py"
    deps = STAGES[stage]["deps"]
    # A package's own file holds a docstring only, so it cannot change a result.
    needed = sorted(str(path.relative_to(ROOT)) for path in reachable(start) if path.name != "__init__.py")
    missing = [path for path in needed if not any(path == dep or path.startswith(f"{dep}/") for dep in deps)]
    assert not missing, f"add to the deps of {stage}: {', '.join(missing)}"
    code = [dep for dep in deps if str(dep).startswith("blobex")]
    idle = [dep for dep in code if not any(path == dep or path.startswith(f"{dep}/") for path in needed)]
    assert not idle, f"{stage} does not import {', '.join(idle)}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_section_and_module_share_a_name(stage):
    assert (ROOT / "blobex" / "stages" / f"{stage}.py").is_file()
    assert stage in yaml.safe_load((ROOT / "params.yaml").read_text())


def test_packages_hold_a_docstring_only():
    for path in (ROOT / "blobex").rglob("__init__.py"):
        assert not imported(path), path
