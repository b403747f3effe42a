"""Runs rebuilt from committed results, against the files that they are rebuilt from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from worlds.profiles import profile_params

from blobex.config.data import Run
from blobex.core.errors import BlobexError
from blobex.tracking import reference, runs
from blobex.tracking.reference import add_reference_runs
from blobex.tracking.store import connect

PARSER, EXPLAIN = {"semantic_iou": 0.5}, {"flip_rate": 0.75, "changed_blobs": 2.0}
PARAMS = {"parser": {"training": {"steps": 30}}, "run.seed": 4}


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def stored(path: Path, content: bytes) -> dict[str, Any]:
    """Write an output and return its entry in dvc.lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"path": str(path), "hash": "md5", "md5": hashlib.md5(content).hexdigest(), "size": len(content)}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Make a clone with the results of two stages, and without those of a third."""
    monkeypatch.chdir(tmp_path)
    parser = stored(Path("models/parser/rect/metrics.json"), json.dumps(PARSER).encode())
    explain = stored(Path("reports/explain/square/basic/metrics.json"), json.dumps(EXPLAIN).encode())
    results = Path("reports/explain/square/basic/results")
    results.mkdir()
    pd.DataFrame({"image": ["a", "b"], "score": [0.5, float("nan")]}).to_parquet(results / "explanations.parquet")
    Image.fromarray(np.full((8, 16, 3), 200, np.uint8)).save(results / "snapshot_0.png")
    stages = {
        "parser@rect": {
            "cmd": "python -m blobex.stages.parser rect",
            "deps": [{"path": "data/scenes.json", "md5": "ab" * 16}],
            "params": {"params.yaml": PARAMS},
            "outs": [parser],
        },
        "explain@square-basic": {"cmd": "python -m x", "outs": [explain]},
        "encoder@rect": {"cmd": "y", "outs": [{"path": "models/encoder/rect/metrics.json", "md5": "0" * 32}]},
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "dvc.lock")
    git(tmp_path, "commit", "-qm", "results")
    return dataclasses.replace(profile_params("smoke").run, tracking_uri="sqlite:///mlruns/mlflow.db")


def all_runs(settings: Run) -> dict[str, Any]:
    client = connect(settings.tracking_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {run.info.run_name: run for run in client.search_runs(experiments)}


def test_rebuilt_runs_have_what_the_repository_stores(settings: Run, tmp_path: Path) -> None:
    assert add_reference_runs(settings) == 2
    found, client = all_runs(settings), connect(settings.tracking_uri)
    assert set(found) == {"parser-rect-reference", "explain-square-basic-reference"}
    parser, explain = found["parser-rect-reference"], found["explain-square-basic-reference"]
    assert parser.data.metrics == PARSER and explain.data.metrics == EXPLAIN
    assert parser.data.params == {"parser.training.steps": "30", "run.seed": "4"}
    assert parser.data.tags["mlflow.source.git.commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert parser.data.tags["mlflow.source.name"] == "python -m blobex.stages.parser rect"
    digest = hashlib.md5(Path("models/parser/rect/metrics.json").read_bytes()).hexdigest()
    assert parser.data.tags["dvc.md5.models/parser/rect/metrics.json"] == digest
    assert [item.dataset.digest for item in parser.inputs.dataset_inputs] == ["ab" * 16]
    assert parser.data.tags["blobex.rebuilt_from"]
    assert parser.info.start_time == parser.info.end_time == 1000 * int(git(tmp_path, "log", "-1", "--format=%ct"))
    assert [metric.step for metric in client.get_metric_history(parser.info.run_id, "semantic_iou")] == [0]
    assert explain.data.tags["variant"] == "basic" and explain.info.status == "FINISHED"
    table = json.loads(Path(client.download_artifacts(explain.info.run_id, "explanations.json")).read_text())
    assert table["data"] == [["a", 0.5], ["b", None]]
    assert any("snapshot" in item.path for item in client.list_artifacts(explain.info.run_id, "images"))
    default = client.get_experiment_by_name("Default")
    assert default.tags["mlflow.experimentKind"] == "custom_model_development"


def test_runs_are_added_once_and_users_runs_stay(settings: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    params = dataclasses.replace(profile_params("smoke"), run=settings)
    with runs.run(params, "parser", "rect") as tracker:  # the user's own, with the results of the repository
        tracker.log_metrics(PARSER)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(reference, "_log_reports", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        add_reference_runs(settings)
    assert add_reference_runs(settings) == 1
    assert add_reference_runs(settings) == 0
    found = all_runs(settings)
    assert set(found) == {"parser-rect", "explain-square-basic-reference"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    connect(settings.tracking_uri).delete_run(found["explain-square-basic-reference"].info.run_id)
    assert add_reference_runs(settings) == 0
    (Path("models/parser/rect/metrics.json")).write_text("{}")  # changed since the commit
    connect(settings.tracking_uri).delete_run(found["parser-rect"].info.run_id)
    assert add_reference_runs(settings) == 0


def test_damaged_lock_file_is_refused_and_a_folder_without_git_has_none(
    settings: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("dvc.lock").write_text("stages: [1]")
    git(tmp_path, "commit", "-qam", "damaged")
    with pytest.raises(BlobexError, match=r"the committed dvc\.lock is not what DVC writes"):
        add_reference_runs(settings)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "absent"))
    assert add_reference_runs(settings) == 0 and not Path("mlruns").exists()
