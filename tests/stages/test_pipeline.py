"""The whole pipeline, as its users run it: `dvc repro` on the smoke profile in a fresh copy of the project."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from imports import ROOT
from worlds.project_copy import copy_project, dvc

pytestmark = pytest.mark.slow
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The project's files in a repository of their own, with the smoke parameters."""
    return copy_project(tmp_path_factory.mktemp("project"), "smoke")


def test_repro_runs_every_stage_once(project):
    dvc(project, "repro")
    assert "up to date" in dvc(project, "repro")
    assert dvc(project, "status").strip() == "Data and pipelines are up to date."
    lock = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    assert {name.split("@")[0] for name in lock} == set(STAGES)


def test_a_second_run_has_the_same_bytes(project, tmp_path):
    """All outputs of one setup: weights, pictures, tables and measures."""

    def outputs(folder):
        stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
        return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}

    first = outputs(project)
    again = copy_project(tmp_path / "again", "smoke")
    dvc(again, "repro", *(name for name in first if name.partition("@")[2].startswith("rect")))
    second = outputs(again)
    assert {name.split("@")[0] for name in second} == set(STAGES)
    assert second == {name: first[name] for name in second}


def test_every_stage_is_an_experiment(project):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiments = {experiment.name: experiment.experiment_id for experiment in client.search_experiments()}
    assert set(STAGES) <= set(experiments)
    for name in STAGES:
        runs = client.search_runs([experiments[name]])
        setups = {run.data.tags["setup"] for run in runs}
        assert setups == ({"all"} if name == "scenes" else {"square", "rect"}), name
        assert {run.info.status for run in runs} == {"FINISHED"}, name


def test_bench_compares_with_the_published_way(project):
    """That it runs and writes what it promises; no test looks at the clock."""
    done = subprocess.run(
        [sys.executable, "-m", "blobex.stages.bench", "rect"], cwd=project, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    metrics = json.loads((project / "reports" / "bench" / "rect" / "metrics.json").read_text())
    assert metrics["ratio"] == metrics["published_seconds_per_picture"] / metrics["fast_seconds_per_picture"]
    assert metrics["published_invert_renderings_per_picture"] >= 400
    assert metrics["published_explain_renderings_per_picture"] >= 4 * 200
    assert "flip_rate" in done.stdout


def test_outputs_are_whole(project):
    for setup in ("square", "rect"):
        for variant in ("basic", "targeted", "diverse"):
            results = project / "reports" / "explain" / setup / variant / "results"
            assert (results / "snapshot_0.png").stat().st_size > 1000
            assert len(list((results / "pictures").glob("*/record.json"))) == len(
                list((results / "pictures").iterdir())
            )
        metrics = json.loads((project / "reports" / "evaluate" / setup / "metrics.json").read_text())
        assert 0 <= metrics["flip_rate"] <= 1
    assert not list(project.rglob("*.part"))


def test_a_clone_pulls_all_and_has_nothing_to_do(project, tmp_path):
    """The pictures are not stored: the clone draws them, the same, when a stage reads them."""
    dvc(project, "push")
    clone = tmp_path / "clone"
    tracked = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=project, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    for name in filter(None, tracked):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, clone / name)
    subprocess.run(["git", "init", "--quiet"], cwd=clone, check=True)
    assert not (clone / "models" / "parser").exists()
    dvc(clone, "pull")
    assert dvc(clone, "status").strip() == "Data and pipelines are up to date."
    assert "up to date" in dvc(clone, "repro")
    lock = (clone / "dvc.lock").read_bytes()
    assert not (clone / "data" / "scenes").exists()
    dvc(clone, "repro", "--force", "--single-item", "fid_stats@square")
    assert (clone / "data" / "scenes").is_dir()
    assert (clone / "dvc.lock").read_bytes() == lock
