"""Stages that train in two processes over gloo, as `run.devices: 2` makes them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from imports import ROOT
from worlds.project_copy import copy_project

from blobex.training import checkpoints

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The smoke profile with its scenes, on two devices, and a BlobGAN that starts from scratch."""
    folder = copy_project(tmp_path_factory.mktemp("project"), "smoke")
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["run"] |= {"device": "cpu", "devices": 2, "precision": "float32"}
    params["blobgan"] |= {"start": "scratch", "painting_weight": 0}
    params["blobgan"]["network"]["layout"] = "mlp"
    path.write_text(yaml.safe_dump(params))
    stage(folder, "scenes")
    return folder


def stage(project: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", f"blobex.stages.{name}", *words],
        cwd=project,
        env={"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    "words", ["parser rect", "decision rect plain", "blobgan rect", "encoder_pretrain rect", "encoder rect"]
)
def test_two_processes_train_and_one_writes(project, words):
    from mlflow import MlflowClient

    name = words.split()[0]
    stage(project, *words.split())
    folder = project / "models" / Path(*words.split())
    assert (folder / "weights.safetensors").stat().st_size > 1000
    metrics = json.loads((folder / "metrics.json").read_text())
    training = yaml.safe_load((project / "params.yaml").read_text())[name]["training"]
    steps, every = training["steps"], training["checkpoint"]["every_n_steps"]
    assert (folder / "checkpoints" / f"step-{steps:08d}.ckpt").is_file() and (folder / "checkpoints/finished").is_file()
    client = MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    assert run.info.status == "FINISHED" and metrics.items() <= run.data.metrics.items()
    assert run.data.params["run.devices"] == "2"
    losses = [measure for measure in run.data.metrics if "loss" in measure]
    reports = [sorted(metric.step for metric in client.get_metric_history(run.info.run_id, loss)) for loss in losses]
    assert reports and all(report == sorted({*range(every, steps, every), steps}) for report in reports)


def test_batch_size_is_shared_by_the_processes(project):
    metrics = json.loads((project / "models/blobgan/rect/metrics.json").read_text())
    params = yaml.safe_load((project / "params.yaml").read_text())
    training = params["blobgan"]["training"]
    wide = params["setups"]["rect"]["aspect_ratio"]  # a batch has fewer of the wider images
    assert metrics["images_seen"] == training["steps"] * training["batch_size"] // wide


def run_script(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(script)
    return subprocess.run(
        [sys.executable, str(path), str(folder)],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_measures_of_the_first_process_are_the_scores(tmp_path):
    script = """
import dataclasses, sys
from pathlib import Path
from blobex.config.training import Checkpoints
from blobex.training.fit import EveryNSteps
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import fit
from worlds.toy_training import RUN, Noisy, batches, vary

if __name__ == "__main__":
    options = vary(checkpoint=Checkpoints(every_n_steps=4, keep=-1, monitor="fd", mode="min"))
    measure = EveryNSteps(4, lambda step, module: module.score({"fd": 1 / step}))
    two = dataclasses.replace(RUN, devices=2)
    fit(Noisy(), batches, options, two, Path(sys.argv[1]) / "models", NullTracker(), [measure])
"""
    done = run_script(tmp_path, script)
    assert done.returncode == 0, done.stderr
    scores = [checkpoint.score for checkpoint in checkpoints.list_checkpoints(tmp_path / "models")]
    assert scores == pytest.approx([1 / 4, 1 / 8, 1 / 12], rel=1e-5)


def test_one_command_trains_one_network_on_several_devices(project):
    script = """
import dataclasses, sys
from pathlib import Path
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import fit
from worlds.toy_training import RUN, TRAINING, Noisy, batches

if __name__ == "__main__":
    for name in ("one", "two"):
        fit(Noisy(), batches, TRAINING, dataclasses.replace(RUN, devices=2), Path(sys.argv[1]) / name, NullTracker())
"""
    done = run_script(project, script)
    assert done.returncode == 1 and "one command trains one network" in done.stderr
