"""Which module may import which: floors of rooms, no cycles, and heavy packages in one room only."""

import ast

import pytest
from imports import MODULES, PACKAGE, imports_of, name_of, packages_of, reachable

from blobex.core.code_state import read_module

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
WITHOUT_TORCH = ("config", "scenes", "report")  # nor does anything that they import
ONLY_IN = {
    "pytorch_lightning": "training",
    "mlflow": "tracking",
    "optuna": "sweeps",
    "boto3": "tracking",
    "dvc": "tracking",
    "starlette": "app",
    "uvicorn": "app",
}
IN_ROOMS = [path for path in MODULES if path.parent != PACKAGE]


def room_of(path):
    return path.relative_to(PACKAGE).parts[0]


def test_every_room_has_a_floor():
    assert {room_of(path) for path in IN_ROOMS} == set(FLOOR)


def test_the_top_holds_no_module_of_its_own():
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_rooms_import_only_from_floors_below():
    wrong = [
        f"{name_of(path)} reaches {name_of(other)}"
        for path in IN_ROOMS
        for other in reachable(path)
        if room_of(other) != room_of(path) and FLOOR[room_of(other)] >= FLOOR[room_of(path)]
    ]
    assert not wrong


def test_the_package_uses_no_public_name_of_its_own():
    """blobex/__init__.py is no part of the code that stages depend on; its version is in no result of theirs."""
    rooms = {f"blobex.{room}" for room in FLOOR} | {"blobex.__version__"}
    users = [
        f"{name_of(path)} imports {name}"
        for path in IN_ROOMS
        for name in read_module(path).imports
        if name.startswith("blobex.") and name.count(".") == 1 and name not in rooms
    ]
    assert not users


def test_no_module_imports_itself_through_others():
    circular = [name_of(path) for path in MODULES if any(path in reachable(other) for other in imports_of(path))]
    assert not circular


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_reaches_no_torch(room):
    reached = {other for path in (PACKAGE / room).rglob("*.py") for other in reachable(path)}
    heavy = sorted(name_of(path) for path in reached if packages_of(path) & {"torch", "torchvision"})
    assert not heavy, f"blobex.{room} reaches torch through {', '.join(heavy)}"


@pytest.mark.parametrize(("package", "room"), ONLY_IN.items())
def test_heavy_package_stays_in_its_room(package, room):
    others = [name_of(path) for path in MODULES if package in packages_of(path) and room_of(path) != room]
    assert not others, f"only blobex.{room} may import {package}, not {', '.join(others)}"


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_room_says_what_it_is_in_one_line(room):
    for path in (PACKAGE / room).rglob("__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        text = ast.get_docstring(tree)
        assert len(tree.body) == 1 and text and "\n" not in text, path


WITNESS = PACKAGE / "networks" / "witness.py"
MEASURING = {"witness", "explain", "evaluate", "truth", "bench"}  # stages that train the witnesses or measure with them
SEARCHING = {
    *("decisions", "training", "perception", "optim", "inversion", "counterfactual"),
    *("explain", "sweeps", "app", "benchmark"),
}


def test_nothing_that_trains_or_searches_reaches_the_witnesses():
    """A network that training or search has used is no witness."""
    allowed = {PACKAGE / "training" / "witness.py", *(PACKAGE / "stages" / f"{name}.py" for name in MEASURING)}
    asked = [path for path in IN_ROOMS if room_of(path) in SEARCHING | {"stages"} and path not in allowed]
    wrong = [name_of(path) for path in asked if WITNESS in reachable(path)]
    assert not wrong, f"{', '.join(wrong)} must not reach blobex.networks.witness"
    assert WITNESS in reachable(PACKAGE / "stages" / "witness.py")
