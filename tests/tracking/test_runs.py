"""Runs in a local MLflow store."""

import dataclasses
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from worlds.profiles import FOLDER, profile_params

from blobex.config.read import flatten
from blobex.core.errors import BlobexError
from blobex.tracking import runs as tracking
from blobex.tracking import store as mlflow_store
from blobex.tracking.store import connect
from blobex.tracking.tracker import NullTracker

HASH = "0123456789abcdef0123456789abcdef"
LOCK = {"schema": "2.0", "stages": {"scenes": {"cmd": "x", "outs": [{"path": "data/scenes", "md5": f"{HASH}.dir"}]}}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One database for all tests, as its tables take seconds to make."""
    return tmp_path_factory.mktemp("mlruns") / "deeper" / "mlflow.db"


@pytest.fixture(scope="module")
def params(store):
    params = profile_params("smoke")
    return dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri=f"sqlite:///{store}"))


@pytest.fixture(scope="module")
def client(params):
    return connect(params.run.tracking_uri)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Folder in which nothing but the test's own files may be written."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert {path.name for path in tmp_path.iterdir()} <= {"dvc.lock", "params.yaml", "table.csv"}


@pytest.fixture
def locked(elsewhere):
    (elsewhere / "dvc.lock").write_text(yaml.safe_dump(LOCK))


def test_finished_run_holds_everything(params, client, store, locked, elsewhere):
    (elsewhere / "table.csv").write_text("a,b\n")
    image = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)
    with tracking.run(params, "blobgan", "rect", Path("data/scenes")) as tracker:
        assert client.get_run(tracker.run_id).info.status == "RUNNING"
        tracker.log_metrics({"loss": 2.5, "r1": 1}, step=3)
        tracker.log_metrics({"loss": 1.5}, step=6)
        tracker.log_metrics({"final": 0.25})
        tracker.log_image("samples", image, step=6)
        tracker.log_table({"image": ["a", "b"], "score": [0.5, 1.0]}, "rows.json")
        tracker.log_artifact(Path("table.csv"))
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "blobgan-rect"
    assert client.get_experiment(run.info.experiment_id).name == "blobgan"
    assert run.data.tags["setup"] == "rect" and run.data.tags["mlflow.source.git.commit"]
    assert run.data.tags["mlflow.source.name"] == "blobex/stages/blobgan.py"
    expected = flatten(params.blobgan, "blobgan.") | flatten(params.run, "run.")
    assert run.data.params == {key: str(value) for key, value in expected.items()}
    history = client.get_metric_history(tracker.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(3, 2.5), (6, 1.5)]
    assert run.data.metrics == {"loss": 1.5, "r1": 1.0, "final": 0.25}
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.source) == ("scenes", "data/scenes")
    assert dataset.dataset.digest == HASH + ".dir"
    names = {item.path for item in client.list_artifacts(tracker.run_id)}
    assert {"table.csv", "params.yaml", "images"} <= names
    text = Path(client.download_artifacts(tracker.run_id, "params.yaml", str(store.parent))).read_text()
    assert yaml.safe_load(text) == asdict(params)
    rows = pd.read_json(client.download_artifacts(tracker.run_id, "rows.json", str(store.parent)), orient="split")
    assert rows.to_dict("list") == {"image": ["a", "b"], "score": [0.5, 1.0]}
    pictures = [item.path for item in client.list_artifacts(tracker.run_id, "images")]
    assert any("samples" in name and name.endswith(".png") for name in pictures)
    assert (store.parent / "artifacts" / "blobgan" / tracker.run_id / "artifacts" / "table.csv").exists()


@pytest.mark.parametrize(
    ("error", "status"), [(BlobexError, "FAILED"), (InterruptedError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_run_that_raises(params, client, error, status):
    with pytest.raises(error), tracking.run(params, "parser", "rect") as tracker:
        raise error("stop")
    assert client.get_run(tracker.run_id).info.status == status


KILLED_RUN = """
import os, signal
from blobex.tracking import runs as tracking
from blobex.config.read import load_params
with tracking.run(load_params("params.yaml"), "evaluate", "rect") as tracker:
    tracker.log_metrics({"before": 1.0})
    print(tracker.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_run_is_continued(params, client, elsewhere):
    (elsewhere / "params.yaml").write_text(yaml.safe_dump(asdict(params)))
    done = subprocess.run([sys.executable, "-c", KILLED_RUN], capture_output=True, text=True, check=False)
    killed = done.stdout.strip()
    assert client.get_run(killed).info.status == "RUNNING"
    with tracking.run(params, "evaluate", "square") as other:  # neither another setup's ...
        assert other.run_id != killed
        with tracking.run(params, "evaluate", "square") as beside:  # ... nor a living process's run is taken over
            assert beside.run_id not in (killed, other.run_id)
    with tracking.run(params, "evaluate", "rect") as tracker:
        assert tracker.run_id == killed
        tracker.log_metrics({"after": 2.0})
    run = client.get_run(killed)
    assert run.info.status == "FINISHED" and run.data.metrics == {"before": 1.0, "after": 2.0}


@pytest.mark.slow
def test_killed_run_with_other_parameters_is_closed(params, client, elsewhere):
    (elsewhere / "params.yaml").write_text(yaml.safe_dump(asdict(params)))
    done = subprocess.run([sys.executable, "-c", KILLED_RUN], capture_output=True, text=True, check=False)
    changed = dataclasses.replace(params, evaluate=dataclasses.replace(params.evaluate, batch_size=17))
    with tracking.run(changed, "evaluate", "rect") as tracker:
        assert tracker.run_id != done.stdout.strip()
    assert client.get_run(done.stdout.strip()).info.status == "KILLED"


def test_run_whose_start_cannot_be_logged_does_not_stay_open(params, client, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(tracking, "dvc_hash", broken)
    with pytest.raises(OSError, match="disk full"), tracking.run(params, "decision", "rect", Path("data")):
        pass
    (run,) = client.search_runs([client.get_experiment_by_name("decision").experiment_id])
    assert run.info.status == "FAILED"


def test_runs_of_a_stage_share_its_experiment(params, client):
    ids = []
    for setup in ("square", "rect"):
        with tracking.run(params, "encoder", setup) as tracker:
            ids.append(tracker.run_id)
    experiments = {client.get_run(run_id).info.experiment_id for run_id in ids}
    assert len(experiments) == 1 and len(set(ids)) == 2
    assert client.get_experiment(experiments.pop()).name == "encoder"


def test_named_run_is_continued(params, client, locked):
    with pytest.raises(InterruptedError), tracking.run(params, "blobgan", "square", Path("data/scenes")) as tracker:
        tracker.log_metrics({"loss": 3.0}, step=1)
        raise InterruptedError
    longer = dataclasses.replace(params.blobgan.training, steps=99)
    longer = dataclasses.replace(params, blobgan=dataclasses.replace(params.blobgan, training=longer))
    with tracking.run(longer, "blobgan", "square", Path("data/scenes"), run_id=tracker.run_id) as again:
        assert again.run_id == tracker.run_id
        assert client.get_run(tracker.run_id).info.status == "RUNNING"
        again.log_metrics({"loss": 2.0}, step=2)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED" and len(run.inputs.dataset_inputs) == 1
    assert [metric.step for metric in client.get_metric_history(tracker.run_id, "loss")] == [1, 2]
    assert run.data.params["blobgan.training.steps"] == str(params.blobgan.training.steps)


def test_experiment_with_another_location_is_renamed_and_comes_back(params, client, store):
    here, there = store.parent / "artifacts" / "report", store.parent / "moved" / "artifacts" / "report"
    earlier = client.create_experiment("report", there.as_uri())
    with tracking.run(params, "report", "rect") as tracker:
        pass
    run = client.get_run(tracker.run_id).info
    assert run.experiment_id != earlier and client.get_experiment_by_name("report").experiment_id == run.experiment_id
    assert (here / tracker.run_id / "artifacts" / "params.yaml").is_file() and not there.exists()
    assert client.get_experiment(earlier).name == f"report ({there.as_uri()})"
    client.rename_experiment(run.experiment_id, f"report ({here.as_uri()})")
    client.rename_experiment(earlier, "report")  # as if the folder had been moved there and back
    with tracking.run(params, "report", "rect") as again:
        pass
    assert client.get_run(again.run_id).info.experiment_id == run.experiment_id
    assert client.get_experiment(run.experiment_id).name == "report"
    assert client.get_experiment(earlier).name == f"report ({there.as_uri()})"


@pytest.mark.parametrize("place", ["mlruns/files", "file:///tmp/files", "bucket/folder", ""])
def test_artifacts_outside_of_a_bucket_are_an_error(params, place):
    wrong = dataclasses.replace(params, run=dataclasses.replace(params.run, artifacts=place))
    with pytest.raises(BlobexError, match=r"run\.artifacts is .*s3://"), tracking.run(wrong, "parser", "rect"):
        pytest.fail("the stage began")


def test_pages_are_served_of_a_local_store_only(params, monkeypatch):
    called = []
    monkeypatch.setattr("os.execve", lambda *arguments: called.append(arguments))
    monkeypatch.delenv(mlflow_store.S3_ENDPOINT, raising=False)
    mlflow_store.serve_pages(dataclasses.replace(params.run, s3_endpoint="http://host:9000"), 5001)
    ((program, words, environment),) = called
    assert program == sys.executable and words[1:4] == ["-m", "mlflow", "ui"]
    assert words[words.index("--port") + 1] == "5001" and words[words.index("--workers") + 1] == "1"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert params.run.tracking_uri in words and environment[mlflow_store.S3_ENDPOINT] == "http://host:9000"
    assert mlflow_store.S3_ENDPOINT not in os.environ
    for uri in ("none", "http://127.0.0.1:5000"):
        with pytest.raises(BlobexError, match=r"run\.tracking_uri is"):
            mlflow_store.serve_pages(dataclasses.replace(params.run, tracking_uri=uri), 5001)


@pytest.mark.parametrize("run_id", ["0" * 32, "no such run"])
def test_unknown_run_is_an_error(params, run_id):
    words = rf"knows no run {run_id}.*resume\.run_id"
    with pytest.raises(BlobexError, match=words), tracking.run(params, "blobgan", "rect", run_id=run_id):
        pass


def test_tracking_can_be_off(params, elsewhere):
    off = dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri="none"))
    with tracking.run(off, "blobgan", "rect", Path("data/scenes"), run_id="0" * 32) as tracker:
        assert isinstance(tracker, NullTracker) and tracker.run_id is None
        tracker.log_params({"a": 1})
        tracker.log_metrics({"b": 2.0}, step=1)
        tracker.log_image("c", np.zeros((2, 2, 3), np.uint8), step=1)
        tracker.log_artifact(Path("nothing"))
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "ftp://host/x", "sqlite:////proc/none/mlflow.db"])
def test_store_that_cannot_be_used_is_an_error(uri):
    with pytest.raises(BlobexError, match=r"run\.tracking_uri"):
        connect(uri)


def test_damaged_database_is_an_error(tmp_path_factory):
    database = tmp_path_factory.mktemp("damaged") / "mlflow.db"
    database.write_text("no database at all, but long enough to look like one" * 50)
    with pytest.raises(BlobexError, match=r"run\.tracking_uri"):
        connect(f"sqlite:///{database}")


def test_more_parameters_and_metrics_than_one_message_holds(params, client):
    with tracking.run(params, "evaluate", "rect") as tracker:
        tracker.log_params({f"p{index}": index for index in range(250)})
        tracker.log_metrics({f"m{index}": index for index in range(1100)})
    data = client.get_run(tracker.run_id).data
    assert len([name for name in data.params if name.startswith("p")]) == 250 and len(data.metrics) == 1100


def test_metrics_may_be_nan_tensors_and_numpy_numbers(params, client):
    with tracking.run(params, "evaluate", "rect") as tracker:
        tracker.log_metrics({"nan": float("nan"), "tensor": torch.tensor(1.5), "numpy": np.float32(2.5)}, step=1)
    metrics = client.get_run(tracker.run_id).data.metrics
    assert np.isnan(metrics["nan"]) and metrics["tensor"] == 1.5 and metrics["numpy"] == 2.5


@pytest.mark.slow
def test_decision_model_is_registered_and_opens_again(params, client, elsewhere):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8, 4))
    with tracking.run(params, "decision", "rect") as tracker:
        tracking.register_decision(tracker, "decision-rect", model, 4, 8)
    tracking.register_decision(NullTracker(), "nothing", model, 4, 8)
    version = client.get_model_version_by_alias("decision-rect", mlflow_store.ALIAS)
    assert version.run_id == tracker.run_id
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    import mlflow.pyfunc

    opened = mlflow.pyfunc.load_model(f"models:/decision-rect@{mlflow_store.ALIAS}")
    image = np.random.default_rng(0).normal(size=(3, 3, 4, 8)).astype(np.float32)
    np.testing.assert_allclose(opened.predict(image), model(torch.from_numpy(image)).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_repaired_model_has_its_alias_and_names_its_explanations(params, client):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8, 4))
    model.config = {"height": 4, "width": 8}
    with tracking.run(params, "decision", "square", variant="night") as trained:
        tracking.register_decision(trained, "decision-square-night", model, 4, 8)
    with tracking.run(params, "explain", "square", variant="basic") as explained:
        pass
    found = tracking.newest_run(params, "explain", "square", "basic")
    assert found == explained.run_id and tracking.newest_run(params, "explain", "square", "diverse") is None
    with tracking.run(params, "repair", "square", variant="night") as tracker:
        tracking.register_repaired(tracker, "decision-square-night", model, found)
    version = client.get_model_version_by_alias("decision-square-night", tracking.REPAIRED)
    assert version.run_id == tracker.run_id and version.tags[tracking.EXPLANATIONS] == explained.run_id
    newest = client.get_model_version_by_alias("decision-square-night", mlflow_store.ALIAS)
    assert newest.run_id == trained.run_id  # a repair does not take the place of a training


@pytest.mark.slow
def test_several_processes_may_start_at_once(tmp_path_factory):
    """The first use of a database creates its tables, and two processes that do so together would crash."""
    store = tmp_path_factory.mktemp("together") / "mlflow.db"
    command = (
        f"from blobex.tracking.store import connect; print(len(connect('sqlite:///{store}').search_experiments()))"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([sys.executable, "-c", command], **options) for _ in range(2)]
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0 and out.split()[-1] == b"1", error.decode()


ORPHANS = """
import dataclasses, os, signal
from pathlib import Path
from blobex.config.profile import load_profile
from blobex.tracking import runs as tracking
params = load_profile("smoke", Path({profiles!r}))
params = dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri={uri!r}))
begun = [tracking.child(params, parent, "sweep_cf", "rect", "dies", {{}}) for parent in {parents!r}]
print(*(run.__enter__().run_id for run in begun), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_nested_runs_of_killed_processes_are_closed_in_their_parent_only(params, client):
    """Runs of living processes stay open."""
    uri = params.run.tracking_uri
    with (
        tracking.run(params, "sweep_cf", "square") as parent,
        tracking.run(params, "sweep_cf", "rect") as other,
        tracking.child(params, parent.run_id, "sweep_cf", "square", "lives", {}) as alive,
    ):
        code = ORPHANS.format(profiles=str(FOLDER), uri=uri, parents=[parent.run_id, other.run_id])
        told = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stdout
        within, elsewhere = told.split()
        tracking.end_orphans(params, parent.run_id)
        states = [client.get_run(name).info.status for name in (within, elsewhere, alive.run_id, parent.run_id)]
        assert states == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]
    tracking.end_orphans(params, None)
    tracking.end_orphans(params, "0" * 32)  # no such run
