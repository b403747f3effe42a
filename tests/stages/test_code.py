"""Code files of the stages: they name all imported code, and DVC runs a stage again only if its code computes else."""

import subprocess
import sys

import pytest
import yaml
from imports import PACKAGE, ROOT
from worlds.project_copy import copy_project, dvc, refresh_code

from blobex.core.code_state import LEFT_OUT, describe_stage

STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
CLEAN = "Data and pipelines are up to date."
LOADED = "import sys, blobex.stages.truth; print(*(getattr(each, '__file__', 0) for each in sys.modules.values()))"


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_every_module_that_python_loads_is_described():
    loaded = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = {path for path in PACKAGE.rglob("*.py") if str(path) in loaded.split() and path.name != "__init__.py"}
    left_out = {path for path in paths if any(path.is_relative_to(PACKAGE / name) for name in LEFT_OUT)}
    left_out.add(PACKAGE / "core" / "processes.py")  # imported by tracking only
    described = {ROOT / line.split()[0] for line in describe_stage("truth").splitlines()}
    assert PACKAGE / "layout" / "splat.py" in paths and paths - left_out <= described


@pytest.mark.parametrize("stage", STAGES)
def test_committed_code_files_are_up_to_date(stage):
    text = (ROOT / "code" / f"{stage}.txt").read_text(encoding="utf-8")
    assert text == describe_stage(stage), "run `make code` and commit code/"


@pytest.mark.slow
def test_only_changed_computations_run_a_stage_again(tmp_path):
    project = copy_project(tmp_path / "project", "smoke")
    dvc(project, "repro", "scenes")
    for room in ("config", "layout"):
        for path in (project / "blobex" / room).glob("*.py"):
            path.write_text(path.read_text().replace('"""', '"""Edited: ', 1) + "# A comment.\n")
    refresh_code(project)
    assert dvc(project, "status", "scenes").strip() == CLEAN

    before = {path.stem: path.read_text() for path in (project / "code").iterdir()}
    edit(project / "blobex" / "layout" / "splat.py", "AREA = 0.02", "AREA = 0.03")
    refresh_code(project)
    changed = {path.stem for path in (project / "code").iterdir() if path.read_text() != before[path.stem]}
    assert "blobgan" in changed and "scenes" not in changed
    assert dvc(project, "status", "scenes").strip() == CLEAN

    edit(project / "blobex" / "scenes" / "canvas.py", "CAMERA_HEIGHT = 2.4", "CAMERA_HEIGHT = 2.5")
    stage = subprocess.run([sys.executable, "-m", "blobex.stages.scenes"], cwd=project, capture_output=True, text=True)
    assert (
        stage.returncode == 1
        and "stage scenes changed since code/scenes.txt" in stage.stderr
        and "make code" in stage.stderr
    )
    refresh_code(project)
    assert "code/scenes.txt" in dvc(project, "status", "scenes")
