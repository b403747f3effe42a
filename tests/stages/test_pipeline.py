"""The whole pipeline: `dvc repro` on the smoke profile in a fresh copy of the project."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from imports import ROOT
from PIL import Image
from worlds.project_copy import copy_project, dvc

pytestmark = pytest.mark.slow
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
CLEAN = "Data and pipelines are up to date."
PUBLISHED_STEPS = {"invert": 400, "explain": 200}  # of the published searches; the second for each attribute


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the smoke parameters, in a git repository, after `dvc repro`."""
    folder = copy_project(tmp_path_factory.mktemp("project"), "smoke")
    dvc(folder, "repro")
    return folder


def outputs(folder):
    """Return the MD5 of each output by stage and path, as dvc.lock has them."""
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}


def test_repro_runs_every_stage_once(project):
    assert "up to date" in dvc(project, "repro")
    assert dvc(project, "status").strip() == CLEAN
    assert {name.split("@")[0] for name in outputs(project)} == set(STAGES)


def test_second_run_writes_the_same_bytes(project, tmp_path):
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


def test_bench_runs_the_published_searches_in_full(project):
    command = [sys.executable, "-m", "blobex.stages.bench", "rect"]
    bench = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert bench.returncode == 0, bench.stderr[-4000:]
    folder = project / "reports" / "bench" / "rect"
    assert (folder / "table.txt").read_text() in bench.stdout
    metrics = json.loads((folder / "metrics.json").read_text())
    attributes = len(yaml.safe_load((project / "params.yaml").read_text())["explain"]["attributes"])
    assert metrics["published_invert_renderings_per_picture"] >= PUBLISHED_STEPS["invert"]
    assert metrics["published_explain_renderings_per_picture"] >= attributes * PUBLISHED_STEPS["explain"]


@pytest.mark.parametrize("setup", ["square", "rect"])
@pytest.mark.parametrize("variant", ["basic", "targeted", "diverse"])
def test_measures_of_explanations_follow_from_their_table(project, setup, variant):
    folder = project / "reports" / "explain" / setup / variant
    table = pd.read_parquet(folder / "results" / "explanations.parquet")
    metrics = json.loads((folder / "measures.json").read_text())
    headlines = json.loads((folder / "metrics.json").read_text())
    assert len(headlines) <= 13 and headlines.items() <= metrics.items() and "flip_rate" in headlines
    options = yaml.safe_load((project / "params.yaml").read_text())["explain"]
    images, attributes = options["images"][variant], options["attributes"]
    questions = table.drop_duplicates(["image", "attribute"])
    assert len(questions) == images * len(attributes) and set(questions["attribute"]) == set(attributes)
    assert metrics["explanations"] == len(table)
    assert metrics["flip_rate"] == pytest.approx(table["flipped"].mean())
    assert metrics["l2"] == pytest.approx(table.loc[~table["failed"], "l2"].mean())
    records = list((folder / "results" / "pictures").glob("*/record.json"))
    assert len(records) == images
    assert np.asarray(Image.open(folder / "results" / "snapshot_0.png").convert("RGB")).std() > 0


def test_no_temporary_files_are_left(project):
    assert not list(project.rglob("*.part"))


def test_clone_pulls_all_results_and_runs_nothing(project, tmp_path):
    """Images are not stored: the clone renders the same ones when a stage reads them."""
    dvc(project, "push")
    clone = tmp_path / "clone"
    untracked = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard"], cwd=project, check=True, capture_output=True, text=True
    ).stdout.split("\n")
    for name in filter(None, untracked):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project / name, clone / name)
    subprocess.run(["git", "init", "--quiet"], cwd=clone, check=True)
    assert not (clone / "models" / "parser").exists()
    dvc(clone, "pull")
    assert dvc(clone, "status").strip() == CLEAN
    assert "up to date" in dvc(clone, "repro")
    lock = (clone / "dvc.lock").read_bytes()
    assert not (clone / "data" / "scenes").exists()
    dvc(clone, "repro", "--force", "--single-item", "fid_stats@square")
    assert (clone / "data" / "scenes").is_dir()
    assert (clone / "dvc.lock").read_bytes() == lock
