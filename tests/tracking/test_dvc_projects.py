"""DVC's experiments outside of the workspace are runs of MLflow, and outputs get into other projects."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from worlds.profiles import profile_params

from blobex.tracking.store import connect

pytestmark = pytest.mark.slow

STAGE = """
from pathlib import Path
from blobex.config.read import load_params
from blobex.tracking import runs
with runs.run(load_params(), "scenes", "all") as tracker:
    Path("out.txt").write_text("computed")
    tracker.log_artifact(Path("out.txt"))
"""
DVC_YAML = """
stages:
  scenes: {cmd: %s stage.py, deps: [stage.py], params: [scenes.seed], outs: [out.txt]}
"""
CONFIG = "[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = ../store\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project of git and DVC with one tracked stage, whose output is pushed to a folder of the repository."""
    folder = tmp_path_factory.mktemp("dvc") / "project"
    folder.mkdir()
    call(folder, "git", "init", "--quiet")
    dvc(folder, "init", "--quiet")
    params = profile_params("smoke")
    params = replace(params, run=replace(params.run, tracking_uri="sqlite:///mlruns/mlflow.db"))
    files = {"params.yaml": yaml.safe_dump(asdict(params)), ".dvc/config": CONFIG, ".gitignore": "/mlruns\n"}
    files |= {"stage.py": STAGE, "dvc.yaml": DVC_YAML % sys.executable}
    for name, content in files.items():
        (folder / name).write_text(content)
    commit(folder)
    return folder


def call(folder: Path, *command: str) -> str:
    names = {"GIT_AUTHOR_NAME": "a", "GIT_COMMITTER_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_EMAIL": "a@b"}
    environment = os.environ | names | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *arguments: str) -> str:
    return call(folder, sys.executable, "-m", "dvc", *arguments)


def commit(folder: Path) -> None:
    call(folder, "git", "add", "--all")
    call(folder, "git", "commit", "--quiet", "--message", "all")


def test_experiments_in_temporary_folders_are_runs(project: Path) -> None:
    dvc(project, "exp", "run", "--temp", "-S", "scenes.seed=5", "-n", "apart")
    dvc(project, "exp", "run", "--queue", "-S", "scenes.seed=6", "-n", "queued")
    dvc(project, "exp", "run", "--run-all")
    client = connect(f"sqlite:///{project}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("scenes").experiment_id])
    found = {run.data.tags["dvc.experiment"]: (run.info.status, run.data.params["scenes.seed"]) for run in runs}
    assert found == {"apart": ("FINISHED", "5"), "queued": ("FINISHED", "6")}
    for run in runs:
        assert Path(client.download_artifacts(run.info.run_id, "out.txt")).read_text() == "computed"


def test_output_of_a_clone_gets_into_another_project(project: Path, tmp_path: Path) -> None:
    """As docs/pipeline.md says."""
    dvc(project, "repro", "--quiet")
    dvc(project, "push", "--quiet")
    commit(project)
    call(tmp_path, "git", "clone", "--quiet", str(project), "road")
    assert not (tmp_path / "road" / "out.txt").exists()
    dvc(tmp_path, "get", "road", "out.txt", "-o", "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "computed"
