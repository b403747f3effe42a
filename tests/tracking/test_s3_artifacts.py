"""Files of MLflow's runs in a bucket."""

import dataclasses
import os
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
from worlds.profiles import profile_params
from worlds.s3_server import BUCKET, serving

from blobex.core.errors import BlobexError
from blobex.tracking import runs as tracking
from blobex.tracking import store as mlflow_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("mlruns") / "mlflow.db"


@pytest.fixture(autouse=True)
def elsewhere(server, tmp_path, monkeypatch):
    """The owner's credentials, and none that MLflow or boto3 kept of another test."""
    from mlflow.store.artifact import s3_artifact_repo

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.owner.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv(mlflow_store.S3_ENDPOINT, "")  # so that it is taken back
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3_artifact_repo._cached_get_s3_client.cache_clear()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def local(store):
    params = profile_params("smoke")
    return dataclasses.replace(params, run=dataclasses.replace(params.run, tracking_uri=f"sqlite:///{store}"))


@pytest.fixture
def params(local, server):
    run = dataclasses.replace(local.run, artifacts=f"s3://{BUCKET}/team/mlruns", s3_endpoint=server.url)
    return dataclasses.replace(local, run=run)


def test_artifact_lands_in_the_bucket_and_reads_back(params, server, store, tmp_path):
    content = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "file.bin").write_bytes(content)
    with tracking.run(params, "evaluate", "rect") as tracker:
        tracker.log_artifact(Path("file.bin"))
        tracker.log_image("picture", np.zeros((8, 8, 3), np.uint8), step=1)
    folder = f"team/mlruns/evaluate/{tracker.run_id}/artifacts"
    objects = server.objects()
    assert objects[f"{folder}/file.bin"] == content
    assert any(key.startswith(f"{folder}/images/picture") for key in objects)
    client = mlflow_store.connect(params.run.tracking_uri, params.run.s3_endpoint)
    (tmp_path / "back").mkdir()
    back = client.download_artifacts(tracker.run_id, "file.bin", str(tmp_path / "back"))
    assert Path(back).read_bytes() == content
    assert not (store.parent / "artifacts").exists()


def test_earlier_runs_keep_their_place(local, params, server, store):
    def run(settings, run_id=None):
        with tracking.run(settings, "invert", "rect", run_id=run_id) as tracker:
            (Path.cwd() / "file.txt").write_text("x")
            tracker.log_artifact(Path("file.txt"))
        return client.get_run(tracker.run_id).info

    client = mlflow_store.connect(params.run.tracking_uri)
    runs = [run(settings) for settings in (local, params, local, params)]
    beside = (store.parent / "artifacts" / "invert").as_uri()
    places = [run.artifact_uri.removesuffix(f"/{run.run_id}/artifacts") for run in runs]
    assert places == [beside, f"{params.run.artifacts}/invert"] * 2
    ids = [run.experiment_id for run in runs]
    assert ids[:2] == ids[2:] and ids[0] != ids[1]
    assert client.get_experiment(ids[0]).name == f"invert ({beside})"
    assert client.get_experiment(ids[1]).name == "invert"
    again = run(params, runs[0].run_id)  # a run that is continued stays where it is
    assert again.artifact_uri == runs[0].artifact_uri
    with tracking.child(params, runs[0].run_id, "invert", "rect", "child", {}) as tracker:
        assert client.get_run(tracker.run_id).info.artifact_uri.startswith(beside)


@pytest.mark.parametrize(
    ("keys", "endpoint", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "x"}, None, "SignatureDoesNotMatch"),
        ({}, "http://127.0.0.1:9", "Could not connect"),
    ],
)
def test_place_that_takes_nothing_is_told_before_the_stage_begins(params, monkeypatch, keys, endpoint, words):
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    run = dataclasses.replace(params.run, s3_endpoint=endpoint or params.run.s3_endpoint)
    wrong = dataclasses.replace(params, run=run)
    with (
        pytest.raises(BlobexError, match=rf"cannot keep the run's files .*{words}.*run\.s3_endpoint"),
        tracking.run(wrong, "truth", "rect"),
    ):
        pytest.fail("the stage began")
    client = mlflow_store.connect(params.run.tracking_uri)
    (latest,) = client.search_runs([client.get_experiment_by_name("truth").experiment_id], max_results=1)
    assert latest.info.status == "FAILED"


def test_model_is_registered_in_the_bucket_and_opens_again(params, server):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8, 4))
    with tracking.run(params, "decision", "rect") as tracker:
        tracking.register_decision(tracker, "net", model, 4, 8)
    assert any(key.startswith("team/mlruns/decision/models/") for key in server.objects())
    os.environ[mlflow_store.S3_ENDPOINT] = ""  # as in a process that only opens it
    where = params.run.tracking_uri, torch.device("cpu"), params.run.s3_endpoint
    opened = mlflow_store.load_model(f"models:/net@{mlflow_store.ALIAS}", *where)
    images = torch.rand(2, 3, 4, 8)
    assert torch.equal(opened(images), model(images))
