"""A sweep and what is done with its values, as users do it: in a repository of its own, on the smoke profile."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from worlds.project_copy import copy_project, dvc

pytestmark = pytest.mark.slow
STAGE = "explain@rect-basic"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """All that a stage needs is trained and committed."""
    folder = copy_project(tmp_path_factory.mktemp("project"), "smoke")
    dvc(folder, "repro", STAGE)
    git(folder, "config", "user.name", "someone")
    git(folder, "config", "user.email", "someone@example.org")
    commit(folder, "Train")
    return folder


@pytest.fixture(scope="module")
def best(project):
    """The values that a sweep found, by their keys."""
    out = blobex(project, "sweep", "cf", "--setup", "rect", "--trials", "4", "--workers", "2")
    assert "trial 0 (present)" in out and "trial 1 (published)" in out
    assert "best - published, with 95% intervals over images:" in out
    path = project / "reports" / "sweep_cf" / "rect" / "best.yaml"
    assert out.splitlines()[-1] == str(path.relative_to(project))
    return yaml.safe_load(path.read_text())["values"]


def git(folder, *arguments):
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def commit(folder, message):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)


def blobex(folder, *arguments):
    command = [sys.executable, "-c", "from blobex.cli.main import main; main()", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def ran(told):
    """What DVC says of the stages that it ran, or took from its cache of runs."""
    return [line for line in told.splitlines() if re.search("^Running stage|is cached - skipping run", line)]


def test_best_values_as_an_experiment(project, best):
    """`dvc exp run -S` runs the stage alone, and keeps its values and measures beside those of the commit."""
    settings = blobex(project, "sweep", "apply", "rect", "--dvc").split()
    assert len(settings) == 2 * len(best)
    told = dvc(project, "exp", "run", "--name", "tuned", *settings, STAGE)
    assert ran(told) == [f"Running stage '{STAGE}':"]
    shown = json.loads(dvc(project, "exp", "show", "--json"))
    tuned = next(
        each["revs"][0] for commit in shown for each in commit.get("experiments") or [] if each["name"] == "tuned"
    )
    section = tuned["data"]["params"]["params.yaml"]["data"]["explain"]["rect"]
    assert all(section[key.removeprefix("explain.rect.")] == value for key, value in best.items())
    dvc(project, "exp", "remove", "tuned")
    git(project, "checkout", "--", "params.yaml", "dvc.lock")
    dvc(project, "checkout", STAGE)


def test_applied_values_run_only_what_depends_on_them(project, best):
    before = (project / "params.yaml").read_text()
    told = blobex(project, "sweep", "apply", "rect")
    assert [line.partition(":")[0] for line in told.splitlines()] == list(best)
    after = (project / "params.yaml").read_text()
    changed = [(a, b) for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert 0 < len(changed) <= len(best)
    assert all(a.partition("#")[2] == b.partition("#")[2] for a, b in changed)  # comments stay
    status = json.loads(dvc(project, "status", "--json", STAGE))
    assert set(status) == {STAGE}
    assert [f"'{STAGE}'" in line for line in ran(dvc(project, "repro", STAGE))] == [True]


def test_sweep_s_runs_are_nested(project, best):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("sweep_cf").experiment_id
    runs = client.search_runs([experiment])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1 and len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = {item.path for item in client.list_artifacts(parents[0].info.run_id)}
    assert {"best.yaml", "comparison.json", "trials.csv", "history.png", "pareto.png"} <= names
    child = next(run for run in runs if run is not parents[0])
    assert child.data.params.keys() == best.keys() and "flip_rate" in child.data.metrics
    assert [item.path.endswith(".png") for item in client.list_artifacts(child.info.run_id)] == [True]
