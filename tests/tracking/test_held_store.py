"""Runs whose database is held by another process: at their start, in their middle and at their end."""

from __future__ import annotations

import dataclasses
import re
import sqlite3
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from worlds.failing_client import FailingClient
from worlds.profiles import profile_params

from blobex.cli.main import main
from blobex.core.errors import BlobexError
from blobex.tracking import runs as tracking
from blobex.tracking import store as mlflow_store
from blobex.tracking import tracker as trackers

STORE = "sqlite:///mlruns/mlflow.db"
NOTICE = (
    f"blobex: {STORE} is held by another process: evaluate-rect is logged to sqlite:///mlruns/waiting/mlflow.db; "
    "a later run or `blobex sync` copies it there\n"
)


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory):
    """One folder for all tests, with a store that holds a run."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow_store.connect(STORE)
        yield folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for module in (mlflow_store, trackers):
        monkeypatch.setattr(module, "PATIENCE", 0.2)


@pytest.fixture
def params(request):
    params = profile_params("smoke")
    seed = sum(map(ord, request.node.name))  # another run for each test
    return dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri=STORE, seed=seed))


@contextmanager
def holding():
    """Hold the database as a backup or a second writer does."""
    with closing(sqlite3.connect("mlruns/mlflow.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def refuse_to_read():
    """Raise what MLflow would raise about a database that is held."""
    with holding(), closing(sqlite3.connect("mlruns/mlflow.db", timeout=0)) as connection:
        connection.execute("SELECT * FROM runs")


def log(tracker):
    tracker.log_metrics({"loss": 2.5}, step=3)
    tracker.log_image("samples", np.zeros((4, 4, 3), dtype=np.uint8), step=3)
    Path("table.csv").write_text("a,b\n")
    tracker.log_artifact(Path("table.csv"))
    tracker.log_metrics({"loss": 1.5, "final": 0.25}, step=6)


def check(run_id, seed):
    """Assert that the store holds all that `log` logged, once."""
    client = mlflow_store.connect(STORE)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "evaluate-rect"
    assert run.data.params["run.seed"] == str(seed) and run.data.metrics == {"loss": 1.5, "final": 0.25}
    assert [metric.value for metric in client.get_metric_history(run_id, "loss")] == [2.5, 1.5]
    assert {"table.csv", "params.yaml", "images"} <= {item.path for item in client.list_artifacts(run_id)}
    experiment = client.get_experiment_by_name("evaluate").experiment_id
    assert len(client.search_runs([experiment], f"params.`run.seed` = '{seed}'")) == 1
    assert not client.search_runs([experiment], "attributes.status = 'RUNNING'")


def sync(monkeypatch, params, capfd):
    """Return what `blobex sync` prints."""
    Path("params.yaml").write_text(yaml.safe_dump(dataclasses.asdict(params)))
    monkeypatch.setattr(sys, "argv", ["blobex", "sync"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    return capfd.readouterr()


def copied_run(printed):
    (run_id,) = re.findall(rf"copied run \w+ of sqlite:///mlruns/waiting/mlflow.db to {STORE}, as (\w+)", printed.err)
    return run_id


def test_run_that_begins_while_the_store_is_held_is_recorded_later(params, monkeypatch, capfd):
    with holding(), tracking.run(params, "evaluate", "rect") as tracker:
        log(tracker)
    assert capfd.readouterr().err == NOTICE
    printed = sync(monkeypatch, params, capfd)
    assert printed.out == "1 runs copied\n"
    check(copied_run(printed), params.run.seed)
    assert sync(monkeypatch, params, capfd).out == "0 runs copied\n"


@pytest.mark.parametrize("calls", [0, 2, 4])
def test_run_whose_store_is_held_on_the_way_is_whole_in_the_end(params, monkeypatch, capfd, calls):
    holdable, connect = FailingClient(mlflow_store.connect(STORE), 1000, refuse_to_read), mlflow_store.connect
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "connect", lambda uri, *rest: holdable if uri == STORE else connect(uri))
        with tracking.run(params, "evaluate", "rect") as tracker:
            holdable.left = calls
            log(tracker)
    assert capfd.readouterr().err == NOTICE
    assert mlflow_store.connect(STORE).get_run(tracker.run_id).info.status == "RUNNING"
    with tracking.run(params, "report", "rect"):  # the next command records it
        assert copied_run(capfd.readouterr()) == tracker.run_id
    check(tracker.run_id, params.run.seed)


def test_short_wait_is_no_loss(params, monkeypatch, capfd):
    client, connect = FailingClient(mlflow_store.connect(STORE), 1000, refuse_to_read), mlflow_store.connect
    monkeypatch.setattr(tracking, "connect", lambda uri, *rest: client if uri == STORE else connect(uri))
    monkeypatch.setattr(trackers, "PATIENCE", 60)
    with tracking.run(params, "evaluate", "rect") as tracker:
        log(tracker)
        held, client.left = mlflow_store.held, 0

        def released(error):
            client.left = 1000
            return held(error)

        monkeypatch.setattr(trackers, "held", released)
        tracker.log_metrics({"final": 0.25}, step=6)
    assert capfd.readouterr().err == "" and client.client.get_run(tracker.run_id).info.status == "FINISHED"


def test_reader_of_a_held_store_says_so(params):
    with holding(), pytest.raises(BlobexError, match=r"mlflow\.db is held by another process: end it, or wait"):
        mlflow_store.load_model("models:/tiny/1", STORE, torch.device("cpu"))


@pytest.mark.slow
def test_store_that_is_held_at_the_end_of_a_stage(params, monkeypatch, capfd):
    """MLflow itself waits for 20 seconds, prints tracebacks and raises."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8, 4))
    running = tracking.run(params, "evaluate", "rect")
    tracker = running.__enter__()
    with holding():
        tracking.register_decision(tracker, "held", network, 4, 8)
        log(tracker)
        running.__exit__(None, None, None)
    assert NOTICE in (err := capfd.readouterr().err) and "Traceback" not in err
    assert copied_run(sync(monkeypatch, params, capfd)) == tracker.run_id
    check(tracker.run_id, params.run.seed)
    loaded = mlflow_store.load_model("models:/held@latest-trained", STORE, torch.device("cpu"))
    images = torch.rand(2, 3, 4, 8)
    assert torch.equal(loaded(images), network(images))
