"""The wheel: what it holds, and whether the command works where the repository is not."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from blobex import __version__
from blobex.config.read import load_params
from blobex.release.pull import network_files

ROOT = Path(__file__).parents[2]
NEEDED = ("pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy, as setuptools leaves its traces beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "blobex", folder / "copy" / "blobex", ignore=shutil.ignore_patterns("__pycache__"))
    for name in NEEDED:
        shutil.copy(ROOT / name, folder / "copy")
    return build(folder)


def build(folder):
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "copy")
    (found,) = folder.glob("blobex-*.whl")
    return found


def pip(*arguments):
    """pip without the network."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run([*command, "--no-index"], check=True, timeout=200)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    held = {name for name in names if name.startswith("blobex/")}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "blobex").rglob("*.py")}
    folders = ("app/page", "release/templates", "report/templates")
    data = [path for folder in folders for path in (ROOT / "blobex" / folder).iterdir()]
    package |= {str(path.relative_to(ROOT)) for path in data}
    assert held == package
    assert {name.split("/")[0] for name in names - held} == {f"blobex-{__version__}.dist-info"}


@pytest.mark.slow
def test_the_wheel_takes_the_networks_that_pull_gets(tmp_path):
    """Those of square, if all are there: otherwise the wheel is the package alone."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (*NEEDED, "params.yaml"):
        shutil.copy(ROOT / name, copy)
    (copy / "blobex").mkdir()
    shutil.copy(ROOT / "blobex" / "__init__.py", copy / "blobex")
    kinds = ["blobgan", "blobgan_pretrain", "parser", "control", "encoder", "witness"]
    folders = [f"{kind}/{setup}" for kind in kinds for setup in ("square", "rect")]
    folders += ["decision/square/plain", "decision/rect/plain", "blobgan_pretrain/square/blobgan"]
    paths = [f"models/{folder}/{name}" for folder in folders for name in ("config.yaml", "weights.safetensors")]
    for path in [*paths, "models/parser/square/metrics.json"]:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_text(path)
    chosen = network_files(paths, "square", load_params(ROOT / "params.yaml"))
    with zipfile.ZipFile(build(tmp_path)) as content:
        held = {name for name in content.namelist() if name.startswith("blobex/reference/")}
        assert held == {f"blobex/reference/{path}" for path in ("params.yaml", *chosen)} and len(held) == 11
        assert content.read("blobex/reference/params.yaml") == (ROOT / "params.yaml").read_bytes()
    (copy / chosen[0]).unlink()
    shutil.rmtree(copy / "build")
    with zipfile.ZipFile(build(tmp_path)) as content:
        assert not any("reference" in name for name in content.namelist())


@pytest.mark.slow
def test_the_command_works_elsewhere(wheel, tmp_path):
    """Dependencies are those of the tests; the package is the wheel's alone."""
    pip("install", "--no-deps", "--target", tmp_path / "place", wheel)

    def run(*arguments):
        settings = os.environ | {"PYTHONPATH": str(tmp_path / "place")}
        script = tmp_path / "place" / "bin" / "blobex"
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=settings, check=True, capture_output=True, text=True).stdout

    assert run("--version") == f"blobex {__version__}\n"
    drawn = run("scenes", "drawn", "--count", "2").split()
    assert len(drawn) == 2
    for path in drawn:
        with Image.open(tmp_path / path) as picture:
            assert picture.size == (128, 64)
    found = subprocess.run(
        [sys.executable, "-P", "-c", "import blobex; print(blobex.__file__)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "place")},
        capture_output=True,
        text=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(tmp_path / "place")
