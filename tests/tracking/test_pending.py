"""Runs of a tracking server that is not there, goes away, hangs, or is none."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from blobex.cli.main import main
from blobex.config.read import flatten, load_params, to_dict
from blobex.core.errors import BlobexError
from blobex.tracking import pending
from blobex.tracking import runs as tracking
from blobex.tracking import store as mlflow_store
from blobex.tracking.pending import PENDING, Kept, PatientTracker, listed

PROFILE = Path(__file__).parents[2] / "profiles" / "smoke.yaml"
IMAGE = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def at(uri):
    params = load_params(PROFILE)
    return dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri=uri))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def params():
    """Of a server that is not there."""
    return at(f"http://127.0.0.1:{free_port()}")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Another store, which answers."""
    return mlflow_store.connect(f"sqlite:///{tmp_path_factory.mktemp('mlruns') / 'mlflow.db'}")


def tell(tracker):
    """All that a stage may tell a tracker."""
    tracker.log_metrics({"loss": 2.5, "odd": float("nan")}, step=3)
    tracker.log_metrics({"loss": np.float32(1.5)}, step=6)
    tracker.log_image("samples", IMAGE, step=6)
    tracker.log_table({"image": ["a", "b"], "score": [0.5, 1.0]}, "rows.json")
    Path("table.csv").write_text("a,b\n")
    tracker.log_artifact(Path("table.csv"))
    Path("table.csv").unlink()  # it is kept, whatever becomes of it
    tracker.log_metrics({"final": torch.tensor(0.25)})


def check(client, run_id, params):
    """The store knows all that was told."""
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
    names = {item.path for item in client.list_artifacts(run_id)}
    assert {"table.csv", "params.yaml", "images"} <= names
    text = Path(client.download_artifacts(run_id, "params.yaml", str(Path.cwd()))).read_text()
    assert yaml.safe_load(text) == to_dict(params)
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("scenes", "unversioned")


def test_a_run_goes_on_without_its_server_which_is_told_later(params, client, capfd):
    begun = time.monotonic()
    with tracking.run(params, "blobgan", "rect", Path("data/scenes")) as tracker:
        assert isinstance(tracker, PatientTracker) and tracker.run_id is None
        tell(tracker)
    assert time.monotonic() - begun < 60  # MLflow would try for minutes
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "does not answer: mlruns/pending/blobgan-rect-" in err and "blobex sync" in err
    (folder,) = PENDING.iterdir()
    assert tracking.send_kept(client, params.run) == 1
    assert not list(PENDING.iterdir()) and str(folder) in capfd.readouterr().err
    (run,) = client.search_runs([client.get_experiment_by_name("blobgan").experiment_id])
    check(client, run.info.run_id, params)
    pictures = client.list_artifacts(run.info.run_id, "images")
    assert any("samples" in item.path and item.path.endswith(".png") for item in pictures)
    assert tracking.send_kept(client, params.run) == 0


class Fragile:
    """A client that loses its server after so many calls."""

    def __init__(self, client, calls):
        self.client, self.left = client, calls

    def __getattr__(self, name):
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("gone")
        return getattr(self.client, name)


@pytest.mark.parametrize("calls", range(1, 16, 3))
def test_sending_that_is_cut_short_is_made_up_for(params, client, calls):
    """Each time the server goes away at another call; in the end it has one run, with everything once."""
    params = dataclasses.replace(params, blobgan=dataclasses.replace(params.blobgan, fid_images=1000 + calls))
    with tracking.run(params, "blobgan", "rect", Path("data/scenes")) as tracker:
        tell(tracker)
    with suppress(ConnectionError):
        tracking.send_kept(Fragile(client, calls), params.run)
    assert tracking.send_kept(client, params.run) <= 1 and not list(PENDING.iterdir())
    experiment = client.get_experiment_by_name("blobgan")
    chosen = f"params.`blobgan.fid_images` = '{1000 + calls}'"
    (run,) = client.search_runs([experiment.experiment_id], filter_string=chosen)
    check(client, run.info.run_id, params)


@pytest.mark.parametrize("calls", [0, 2, 4, 5])
def test_a_server_that_goes_away_in_mid_run(params, client, calls, monkeypatch, capfd):
    """What it was told it keeps, the rest is kept here, and both are one run."""
    params = dataclasses.replace(params, blobgan=dataclasses.replace(params.blobgan, fid_images=2000 + calls))
    fragile = Fragile(client, 100)
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "connect", lambda *_: fragile)
        with tracking.run(params, "blobgan", "rect", Path("data/scenes")) as tracker:
            assert tracker.run_id is not None
            fragile.left = calls
            tell(tracker)
    assert capfd.readouterr().err.count("does not answer") == 1
    assert tracking.send_kept(client, params.run) == 1
    check(client, tracker.run_id, params)


@contextmanager
def answering(answer):
    """A server that does as `answer(handler)` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        def do_POST(self):
            answer(self)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_hangs_costs_little(monkeypatch, capfd):
    monkeypatch.setattr(mlflow_store, "PROBE", 0.5)
    done = threading.Event()
    with answering(lambda handler: done.wait(300)) as uri:
        begun = time.monotonic()
        with tracking.run(at(uri), "blobgan", "rect") as tracker:
            tell(tracker)
        assert time.monotonic() - begun < 60
        done.set()
    assert "does not answer" in capfd.readouterr().err and len(list(PENDING.iterdir())) == 1


def test_a_server_of_something_else_is_an_error():
    with (
        answering(lambda handler: handler.send_error(404)) as uri,
        pytest.raises(BlobexError, match=r"run\.tracking_uri http://127.* cannot be used"),
        tracking.run(at(uri), "blobgan", "rect"),
    ):
        pytest.fail("the stage began")
    assert not PENDING.exists()


@pytest.mark.parametrize(
    "uri", ["http://nowhere.invalid:5000", "http://", "http://127.0.0.1:x", "htp://127.0.0.1:5000"]
)
def test_a_misspelt_server_is_an_error(uri):
    with (
        pytest.raises(BlobexError, match=r"run\.tracking_uri .*cannot be used"),
        tracking.run(at(uri), "blobgan", "rect"),
    ):
        pytest.fail("the stage began")
    assert not PENDING.exists()


def test_a_password_is_kept_nowhere(capfd):
    with tracking.run(at(f"http://me:secret@127.0.0.1:{free_port()}"), "blobgan", "rect") as tracker:
        assert tracker.kept is not None
    told = [path.read_bytes() for path in (tracker.kept.folder / "run.json", tracker.kept.folder / "log.jsonl")]
    assert "secret" not in capfd.readouterr().err and b'"store": "http://127.0.0.1' in told[0]


KILLED = """
import os, signal
from blobex.tracking import runs as tracking
from blobex.config.read import load_params
with tracking.run(load_params("params.yaml"), "evaluate", "rect") as tracker:
    tracker.log_metrics({"before": 1.0}, step=1)
    with (tracker.kept.folder / "log.jsonl").open("a") as log:
        log.write('{"call": "log_met')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_is_continued_without_a_server(params, client, elsewhere):
    (elsewhere / "params.yaml").write_text(yaml.safe_dump(to_dict(params)))
    subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False)
    (folder,) = PENDING.iterdir()
    with tracking.run(params, "evaluate", "square") as other:
        assert other.kept.folder != folder
    with tracking.run(params, "evaluate", "rect") as tracker:
        assert tracker.kept.folder == folder
        tracker.log_metrics({"after": 2.0}, step=2)
        assert tracking.send_kept(client, params.run) == 1  # but not what is still being written
    assert tracking.send_kept(client, params.run) == 1
    found = client.search_runs([client.get_experiment_by_name("evaluate").experiment_id])
    assert sorted(run.data.tags["setup"] for run in found) == ["rect", "square"]
    (run,) = [run for run in found if run.data.tags["setup"] == "rect"]
    assert run.info.status == "FINISHED" and run.data.metrics == {"before": 1.0, "after": 2.0}


def test_what_is_kept_for_another_server_or_damaged_stays(params, client, capfd):
    with tracking.run(params, "evaluate", "rect"):
        pass
    other = dataclasses.replace(params.run, tracking_uri="http://127.0.0.1:1")
    assert tracking.send_kept(client, other) == 0
    (folder,) = PENDING.iterdir()
    (folder / "run.json").write_text("{}")
    assert tracking.send_kept(client, params.run) == 0 and "is damaged" in capfd.readouterr().err
    assert folder.is_dir()


def test_children_of_a_run_are_kept_too(params, client):
    experiment = client.create_experiment("sweep_cf")
    parent = client.create_run(experiment, tags={"setup": "rect"}).info.run_id
    with tracking.child(params, parent, "trial-1", {"steps": 3}) as tracker:
        tracker.log_metrics({"loss": 1.0})
    assert tracking.known(params, parent) == parent  # as far as anyone can say now
    tracking.end(params, parent, "KILLED")
    assert tracking.send_kept(client, params.run) == 1
    chosen = f"tags.`mlflow.parentRunId` = '{parent}'"
    (run,) = client.search_runs([experiment], filter_string=chosen)
    assert run.info.status == "FINISHED" and run.data.params == {"steps": "3"} and run.data.tags["setup"] == "rect"


def test_sync_says_that_there_is_no_server(params, elsewhere, monkeypatch, capsys):
    (elsewhere / "params.yaml").write_text(yaml.safe_dump(to_dict(params)))
    monkeypatch.setattr(sys, "argv", ["blobex", "sync"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "does not answer" in (err := capsys.readouterr().err) and err.count("\n") == 1


def test_kept_folders_are_locked(params):
    with tracking.run(params, "evaluate", "rect") as tracker:
        with pytest.raises(BlockingIOError):
            Kept(tracker.kept.folder)
        assert list(listed(params.run.tracking_uri)) == []
    assert json.loads((tracker.kept.folder / pending.RUN).read_text())["stage"] == "evaluate"


@contextmanager
def mlflow_server(folder, port):
    """MLflow's own server, in a process group of its own."""
    store, files = f"sqlite:///{folder}/server.db", f"{folder}/files"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--artifacts-destination", files),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 600
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            assert time.monotonic() < deadline and process.poll() is None, "MLflow's server does not start"
            time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_real_server_that_is_killed_in_mid_run(elsewhere, capfd):
    port = free_port()
    params = at(f"http://127.0.0.1:{port}")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8, 4))
    with mlflow_server(elsewhere, port):
        with tracking.run(params, "decision", "rect") as whole:
            tell(whole)
            tracking.register_decision(whole, params, "whole", network, 4, 8)
        assert whole.kept is None
        running = tracking.run(params, "decision", "square")
        tracker = running.__enter__()
        tracker.log_metrics({"loss": 3.0}, step=1)
    begun = time.monotonic()
    tracking.register_decision(tracker, params, "cut", network, 4, 8)
    tell(tracker)
    assert time.monotonic() - begun < 100
    running.__exit__(None, None, None)
    assert capfd.readouterr().err.count("does not answer") == 1 and tracker.kept is not None
    with mlflow_server(elsewhere, port):
        with tracking.run(params, "evaluate", "square"):
            assert not list(PENDING.iterdir())  # the next run's beginning has sent it
        client = mlflow_store.connect(params.run.tracking_uri)
        runs = client.search_runs([client.get_experiment_by_name("decision").experiment_id])
        assert {run.info.run_id for run in runs} == {whole.run_id, tracker.run_id}
        for run in runs:
            assert run.info.status == "FINISHED"
            assert [metric.value for metric in client.get_metric_history(run.info.run_id, "loss")][-2:] == [2.5, 1.5]
            assert "table.csv" in {item.path for item in client.list_artifacts(run.info.run_id)}
        for name, run in (("whole", whole), ("cut", tracker)):
            assert client.get_model_version_by_alias(name, mlflow_store.ALIAS).run_id == run.run_id
            opened = mlflow_store.load_model(
                f"models:/{name}@latest-trained", params.run.tracking_uri, torch.device("cpu")
            )
            images = torch.rand(2, 3, 4, 8)
            assert torch.equal(opened(images), network(images))
