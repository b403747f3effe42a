"""DVC and the code files: changed computations run their stages again, and changed texts run nothing."""

import subprocess
import sys

import pytest
from worlds.project_copy import copy_project, dvc, refresh_code

pytestmark = pytest.mark.slow
CLEAN = "Data and pipelines are up to date."


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


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
    assert stage.returncode == 1 and "the code of stage scenes changed" in stage.stderr and "make code" in stage.stderr
    refresh_code(project)
    assert "code/scenes.txt" in dvc(project, "status", "scenes")
