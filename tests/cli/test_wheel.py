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

ROOT = Path(__file__).parents[2]
NEEDED = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy, as setuptools leaves its traces beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "blobex", folder / "copy" / "blobex", ignore=shutil.ignore_patterns("__pycache__"))
    for name in NEEDED:
        shutil.copy(ROOT / name, folder / "copy")
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
