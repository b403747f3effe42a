"""Runs whose tracking server is silent, is lost, hangs or is no MLflow server; and their copies to the server."""

import dataclasses
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from worlds.failing_client import FailingClient
from worlds.profiles import profile_params
from worlds.tracking_server import answering, free_port, mlflow_server

from blobex.cli.main import main
from blobex.config.read import flatten
from blobex.core.errors import BlobexError
from blobex.tracking import runs as tracking
from blobex.tracking import store as mlflow_store
from blobex.tracking.sync import copy_runs, local_client

IMAGE = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)
NOTICE = "does not answer: blobgan-rect is logged to sqlite:///mlruns/mlflow.db"


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory):
    """One folder for all tests, as the tables of its local store take seconds to make."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def at(uri, **sections):
    params = profile_params("smoke")
    return dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri=uri), **sections)


@pytest.fixture
def params():
    """Parameters that name a server that is not there, another one for each test."""
    return at(f"http://127.0.0.1:{free_port()}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Client of a second store, which stands for the server once it answers."""
    return mlflow_store.connect(f"sqlite:///{tmp_path_factory.mktemp('server') / 'mlflow.db'}")


def log_everything(tracker):
    tracker.log_metrics({"loss": 2.5, "odd": float("nan")}, step=3)
    tracker.log_metrics({"loss": np.float32(1.5)}, step=6)
    tracker.log_image("samples", IMAGE, step=6)
    tracker.log_table({"image": ["a", "b"], "score": [0.5, 1.0]}, "rows.json")
    Path("table.csv").write_text("a,b\n")
    tracker.log_artifact(Path("table.csv"))
    tracker.log_metrics({"final": torch.tensor(0.25)})


def runs_of(client, stage):
    experiment = client.get_experiment_by_name(stage)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def check(client, run_id, params):
    """Assert that the store holds all that `log_everything` logged, once."""
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "blobgan-rect"
    assert client.get_experiment(run.info.experiment_id).name == "blobgan"
    assert run.data.tags["setup"] == "rect" and run.data.tags["mlflow.source.git.commit"]
    expected = flatten(params.blobgan, "blobgan.") | flatten(params.run, "run.")
    assert run.data.params == {key: str(value) for key, value in expected.items()}
    rows = pd.read_json(client.download_artifacts(run_id, "rows.json"), orient="split")
    assert rows.to_dict("list") == {"image": ["a", "b"], "score": [0.5, 1.0]}
    history = client.get_metric_history(run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(3, 2.5), (6, 1.5)]
    assert all(run.info.start_time <= metric.timestamp <= run.info.end_time for metric in history)
    assert np.isnan(run.data.metrics["odd"]) and run.data.metrics["final"] == 0.25
    assert {"table.csv", "params.yaml", "images"} <= {item.path for item in client.list_artifacts(run_id)}
    images = [item.path for item in client.list_artifacts(run_id, "images") if item.path.endswith(".png")]
    assert len(images) == 1 and "samples" in images[0]
    text = Path(client.download_artifacts(run_id, "params.yaml")).read_text()
    assert yaml.safe_load(text) == asdict(params)
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("scenes", "unversioned")


def test_run_without_a_server_is_logged_locally_and_copied_later(params, server, capfd):
    begun = time.monotonic()
    with tracking.run(params, "blobgan", "rect", Path("data/scenes")) as tracker:
        log_everything(tracker)
    assert time.monotonic() - begun < 60  # MLflow by itself would try for minutes
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and NOTICE in err and "blobex sync" in err
    check(local_client(), tracker.run_id, params)
    assert copy_runs(server, params.run) == 1
    (copy,) = runs_of(server, "blobgan")
    check(server, copy.info.run_id, params)
    assert local_client().get_run(tracker.run_id).data.tags["blobex.copied_to"] == copy.info.run_id
    assert copy_runs(server, params.run) == 0 and len(runs_of(server, "blobgan")) == 1


def lose_server():
    raise ConnectionError("gone")


@pytest.mark.parametrize("calls", range(1, 16, 3))
def test_copy_that_was_cut_short_is_completed_without_duplicates(params, server, calls):
    params = dataclasses.replace(params, blobgan=dataclasses.replace(params.blobgan, fid_images=1000 + calls))
    with tracking.run(params, "blobgan", "rect", Path("data/scenes")) as tracker:
        log_everything(tracker)
    with suppress(ConnectionError):
        copy_runs(FailingClient(server, calls, lose_server), params.run)
    copy_runs(server, params.run)
    experiment = server.get_experiment_by_name("blobgan").experiment_id
    (copy,) = server.search_runs([experiment], f"tags.`blobex.copied_from` = '{tracker.run_id}'")
    check(server, copy.info.run_id, params)


@pytest.mark.parametrize("calls", [0, 2, 4, 5])
def test_server_that_is_lost_during_a_run_has_it_whole_in_the_end(params, server, calls, monkeypatch, capfd):
    params = dataclasses.replace(params, blobgan=dataclasses.replace(params.blobgan, fid_images=2000 + calls))
    fragile, connect = FailingClient(server, 1000, lose_server), mlflow_store.connect
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "connect", lambda uri, *rest: fragile if uri.startswith("http") else connect(uri))
        with tracking.run(params, "blobgan", "rect", Path("data/scenes")) as tracker:
            assert server.get_run(tracker.run_id).info.status == "RUNNING"
            fragile.left = calls
            log_everything(tracker)
    assert capfd.readouterr().err.count(NOTICE) == 1
    assert copy_runs(server, params.run) == 1
    check(server, tracker.run_id, params)


def test_server_that_hangs_costs_little(monkeypatch, capfd):
    monkeypatch.setattr(mlflow_store, "PROBE", 0.5)
    done = threading.Event()
    with answering(lambda handler: done.wait(300)) as uri:
        begun = time.monotonic()
        with tracking.run(at(uri), "blobgan", "rect") as tracker:
            log_everything(tracker)
        assert time.monotonic() - begun < 60
        done.set()
    assert NOTICE in capfd.readouterr().err and local_client().get_run(tracker.run_id).info.status == "FINISHED"


def test_server_of_something_else_is_an_error():
    with (
        answering(lambda handler: handler.send_error(404)) as uri,
        pytest.raises(BlobexError, match=r"run\.tracking_uri http://127.* cannot be used"),
        tracking.run(at(uri), "blobgan", "rect"),
    ):
        pytest.fail("the stage began")


@pytest.mark.parametrize(
    "uri", ["http://nowhere.invalid:5000", "http://", "http://127.0.0.1:x", "htp://127.0.0.1:5000"]
)
def test_misspelt_server_is_an_error(uri):
    with (
        pytest.raises(BlobexError, match=r"run\.tracking_uri .*cannot be used"),
        tracking.run(at(uri), "blobgan", "rect"),
    ):
        pytest.fail("the stage began")


def test_password_of_a_server_is_stored_nowhere(capfd):
    port = free_port()
    with tracking.run(at(f"http://me:secret@127.0.0.1:{port}"), "report", "rect") as tracker:
        pass
    assert "secret" not in capfd.readouterr().err
    assert local_client().get_run(tracker.run_id).data.tags["blobex.server"] == f"http://127.0.0.1:{port}"


KILLED = """
import os, signal
from blobex.tracking import runs as tracking
from blobex.config.read import load_params
with tracking.run(load_params("params.yaml"), "evaluate", "rect") as tracker:
    tracker.log_metrics({"before": 1.0}, step=1)
    print(tracker.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_run(folder, params):
    (folder / "params.yaml").write_text(yaml.safe_dump(asdict(params)))
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_killed_run_is_continued_without_a_server(params, server, elsewhere):
    killed = killed_run(elsewhere, params)
    with tracking.run(params, "evaluate", "square") as other:
        assert other.run_id != killed
    with tracking.run(params, "evaluate", "rect") as tracker:
        assert tracker.run_id == killed
        tracker.log_metrics({"after": 2.0}, step=2)
        assert copy_runs(server, params.run) == 1  # a run that is still written waits
    assert copy_runs(server, params.run) == 1
    copies = runs_of(server, "evaluate")
    assert sorted(run.data.tags["setup"] for run in copies) == ["rect", "square"]
    (run,) = [run for run in copies if run.data.tags["setup"] == "rect"]
    assert run.info.status == "FINISHED" and run.data.metrics == {"before": 1.0, "after": 2.0}


def test_killed_run_is_continued_once_the_server_is_back(params, server, elsewhere, monkeypatch):
    killed = killed_run(elsewhere, params)
    connect = mlflow_store.connect
    monkeypatch.setattr(tracking, "connect", lambda uri, *rest: server if uri.startswith("http") else connect(uri))
    with tracking.run(params, "evaluate", "rect") as tracker:
        tracker.log_metrics({"after": 2.0}, step=2)
    run = server.get_run(tracker.run_id)
    assert run.data.tags["blobex.copied_from"] == killed and run.info.status == "FINISHED"
    assert run.data.metrics == {"before": 1.0, "after": 2.0}
    assert tracking.current_run_id(params, killed) == tracker.run_id  # as a checkpoint or a sweep may name it
    with tracking.run(params, "evaluate", "rect", run_id=killed) as again:
        assert again.run_id == tracker.run_id


def test_run_of_another_server_is_not_copied(params, server):
    with tracking.run(params, "evaluate", "rect"):
        pass
    assert copy_runs(server, at("http://127.0.0.1:1").run) == 0
    assert copy_runs(server, params.run) == 1


def test_nested_runs_are_copied_into_their_parents(params, server):
    experiment = server.create_experiment("sweep_cf")
    there = server.create_run(experiment, tags={"setup": "rect"}).info.run_id
    assert tracking.current_run_id(params, there) == there  # nobody can tell otherwise now
    with tracking.run(params, "sweep_cf", "rect") as here:
        for number, parent in enumerate((there, here.run_id)):
            with tracking.child(params, parent, "sweep_cf", "rect", str(number), {"steps": number}) as tracker:
                tracker.log_metrics({"loss": 1.0})
    assert copy_runs(server, params.run) == 3
    copies = {run.info.run_name: run for run in server.search_runs([experiment]) if run.data.params}
    assert {run.info.status for run in copies.values()} == {"FINISHED"}
    trials = [copies[f"sweep_cf-rect-{number}"] for number in (0, 1)]
    assert [trial.data.params for trial in trials] == [{"steps": "0"}, {"steps": "1"}]
    parents = [trial.data.tags["mlflow.parentRunId"] for trial in trials]
    assert parents == [there, copies["sweep_cf-rect"].info.run_id]


def test_sync_says_that_there_is_no_server(params, elsewhere, monkeypatch, capsys):
    (elsewhere / "params.yaml").write_text(yaml.safe_dump(asdict(params)))
    monkeypatch.setattr(sys, "argv", ["blobex", "sync"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "does not answer" in (err := capsys.readouterr().err) and err.count("\n") == 1


@pytest.mark.slow
def test_real_server_that_is_killed_during_a_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    port = free_port()
    params = at(f"http://127.0.0.1:{port}")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8, 4))
    with mlflow_server(tmp_path, port):
        with tracking.run(params, "decision", "rect") as whole:
            log_everything(whole)
            tracking.register_decision(whole, "whole", network, 4, 8)
        running = tracking.run(params, "decision", "square")
        tracker = running.__enter__()
        tracker.log_metrics({"loss": 3.0}, step=1)
    begun = time.monotonic()
    tracking.register_decision(tracker, "cut", network, 4, 8)
    log_everything(tracker)
    assert time.monotonic() - begun < 100
    running.__exit__(None, None, None)
    assert capfd.readouterr().err.count("does not answer") == 1
    with mlflow_server(tmp_path, port):
        with tracking.run(params, "evaluate", "square"):  # the beginning of the next run copies
            client = mlflow_store.connect(params.run.tracking_uri)
            runs = runs_of(client, "decision")
        assert {run.info.run_id for run in runs} == {whole.run_id, tracker.run_id}
        for run in runs:
            assert run.info.status == "FINISHED"
            assert [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")][-2:] == [2.5, 1.5]
            assert "table.csv" in {item.path for item in client.list_artifacts(run.info.run_id)}
        for name, run in (("whole", whole), ("cut", tracker)):
            assert client.get_model_version_by_alias(name, mlflow_store.ALIAS).run_id == run.run_id
            uri = f"models:/{name}@latest-trained"
            loaded = mlflow_store.load_model(uri, params.run.tracking_uri, torch.device("cpu"))
            images = torch.rand(2, 3, 4, 8)
            assert torch.equal(loaded(images), network(images))
