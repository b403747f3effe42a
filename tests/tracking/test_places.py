"""Stores that were moved with their folder, and runs within DVC's experiments."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import torch
from worlds.profiles import profile_params

from blobex.tracking import places
from blobex.tracking import runs as tracking
from blobex.tracking.store import connect, load_model

STORE = "sqlite:///mlruns/mlflow.db"
NETWORK = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8, 4))


def params_at(uri=STORE):
    params = profile_params("smoke")
    return dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri=uri))


def old_project(folder: Path, monkeypatch) -> str:
    """Track a run with a file in a project, register the run's files as a model, and return the id of the run."""
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "table.csv").write_text("a,b\n")
    with tracking.run(params_at(), "parser", "rect") as tracker:
        tracker.log_artifact(Path("table.csv"))
    client = connect(STORE)
    client.create_registered_model("networks")
    source = f"{client.get_run(tracker.run_id).info.artifact_uri}/table.csv"
    client.create_model_version("networks", source, tracker.run_id)
    return tracker.run_id


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A project whose path has a space and a folder `artifacts`, and the id of its run."""
    folder = tmp_path_factory.mktemp("old") / "artifacts" / "my road"
    with pytest.MonkeyPatch.context() as patch:
        run_id = old_project(folder, patch)
    return folder, run_id


@pytest.mark.parametrize("keep", [False, True])
def test_files_of_a_moved_or_copied_project_are_found(written, tmp_path, monkeypatch, keep):
    """Every place in the store is that of a file beside it, whether or not the old folder is still there."""
    old, run_id = written
    new, aside = tmp_path / "new place", old.with_name("aside")
    shutil.copytree(old, new)
    if not keep:
        old.rename(aside)
    monkeypatch.chdir(new)
    try:
        client = connect(STORE)
        source = urlparse(client.get_model_version_download_uri("networks", "1")).path
        experiment = client.get_experiment_by_name("parser")
        assert Path(unquote(source)) == new / f"mlruns/artifacts/parser/{run_id}/artifacts/table.csv"
        assert Path(client.download_artifacts(run_id, "table.csv")).read_text() == "a,b\n"
        assert str(new) in unquote(client.get_run(run_id).info.artifact_uri)
        assert Path(unquote(urlparse(experiment.artifact_location).path)) == new / "mlruns/artifacts/parser"
        with tracking.run(params_at(), "parser", "rect") as tracker:  # no second experiment
            pass
        assert client.get_run(tracker.run_id).info.experiment_id == experiment.experiment_id
        assert places.relocate(new / "mlruns" / "mlflow.db", 1) == 0
    finally:
        if not keep:
            aside.rename(old)


def test_store_whose_files_stayed_is_left_alone(written, tmp_path):
    old, run_id = written
    (tmp_path / "mlruns").mkdir()
    shutil.copy(old / "mlruns" / "mlflow.db", tmp_path / "mlruns" / "mlflow.db")
    assert places.relocate(tmp_path / "mlruns" / "mlflow.db", 1) == 0
    client = connect(f"sqlite:///{tmp_path}/mlruns/mlflow.db")
    assert old.as_uri() in client.get_run(run_id).info.artifact_uri
    assert Path(client.download_artifacts(run_id, "table.csv")).read_text() == "a,b\n"


@pytest.mark.slow
def test_models_of_a_moved_project_load(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    with tracking.run(params_at(), "decision", "rect") as tracker:
        tracking.register_decision(tracker, "tiny", NETWORK, 4, 8)
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    images = torch.rand(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    for uri in ("models:/tiny@latest-trained", "models:/tiny/1", f"runs:/{tracker.run_id}/tiny"):
        loaded = load_model(uri, STORE, torch.device("cpu"))
        assert torch.equal(loaded(images), NETWORK(images))


def test_copies_for_experiments_log_to_the_store_of_their_project(tmp_path, monkeypatch):
    """DVC removes the folder, as here, once the experiment has ended."""
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmp0"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_EXP_NAME", "wider")
    with tracking.run(params_at(), "parser", "rect") as tracker:
        tracker.log_metrics({"loss": 0.5})
        tracker.log_artifact(Path(__file__))
    assert not list(copy.iterdir())
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / ".dvc")
    client = connect(STORE)
    run = client.get_run(tracker.run_id)
    assert run.data.metrics == {"loss": 0.5} and run.data.tags["dvc.experiment"] == "wider"
    files = tmp_path / "mlruns" / "artifacts" / "parser" / tracker.run_id / "artifacts"
    assert run.info.artifact_uri == files.as_uri() and (files / Path(__file__).name).is_file()


@pytest.mark.parametrize(
    ("folder", "home"),
    [
        ("/road", "/road"),
        ("/road/.dvc/tmp/exps", "/road/.dvc/tmp/exps"),
        ("/road/.dvc/tmp/exps/tmp1", "/road"),
        ("/git/short/.dvc/tmp/exps/standalone/tmp1/short", "/git/short"),
    ],
)
def test_keeper_by_hand(folder, home):
    assert places.keeper(Path(folder)) == Path(home)


def test_store_in_a_folder_of_any_name(tmp_path, monkeypatch):
    """An absolute URI would end at the question mark."""
    folder = tmp_path / "what? 100% \u00e9"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with tracking.run(params_at(), "parser", "rect") as tracker:
        tracker.log_artifact(Path(__file__))
    assert (folder / "mlruns" / "mlflow.db").is_file() and [path.name for path in tmp_path.iterdir()] == [folder.name]
    run = connect(STORE).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    files = folder / "mlruns" / "artifacts" / "parser" / tracker.run_id / "artifacts"
    assert (files / Path(__file__).name).is_file()
