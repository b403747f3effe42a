"""Releases in MLflow: versions, the alias, and which runs made the weights; in a database of the test's own."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_release import MEASURES, content
from tiny_models import save_models

from blobex import tracking
from blobex.config.read import load_params
from blobex.errors import BlobexError
from blobex.importing import sha256
from blobex.release import registry
from blobex.release.collect import collect
from blobex.release.release import release

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = save_models(tmp_path_factory.mktemp("tracked"))
    for place, measures in MEASURES.items():
        (folder / "models" / place / "metrics.json").write_text(json.dumps(measures))
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("tracking_uri: none", "tracking_uri: sqlite:///mlruns/mlflow.db"))
    return folder


@pytest.fixture(autouse=True)
def here(project, monkeypatch):
    monkeypatch.chdir(project)


@pytest.fixture(scope="module")
def client(project):
    return tracking.connect(f"sqlite:///{project}/mlruns/mlflow.db")


def version_of(client, model):
    return int(client.get_model_version_by_alias(model, "reference").version)


def test_the_alias_moves_and_old_versions_stay(project, client, monkeypatch, tmp_path):
    (first,) = release(["rect"], Path("models/release"))
    assert first.models == ("blobex-rect 1",) and version_of(client, "blobex-rect") == 1
    before = content(first.folder)
    (project / "models/parser/rect/metrics.json").write_text(json.dumps({"semantic_iou": 0.5}))
    (second,) = release(["rect"], Path("models/release"))
    assert second.models == ("blobex-rect 2",) and version_of(client, "blobex-rect") == 2
    versions = {str(each.version): each for each in client.search_model_versions("name = 'blobex-rect'")}
    assert set(versions) == {"1", "2"}
    for number, expected in (("1", before), ("2", content(second.folder))):
        (tmp_path / number).mkdir()
        kept = client.download_artifacts(versions[number].run_id, "release", str(tmp_path / number))
        assert content(Path(kept)) == expected
        assert versions[number].source.endswith(f"{versions[number].run_id}/artifacts/release")
    run = client.get_run(versions["2"].run_id)
    assert run.info.status == "FINISHED" and run.data.metrics["parser.semantic_iou"] == 0.5
    assert run.data.metrics["decision.plain.accuracy"] == MEASURES["decision/rect/plain"]["accuracy"]
    tags = versions["2"].tags
    assert (tags["setup"], tags["half"], tags["data"]) == ("rect", "none", "unversioned") and "truth" in tags["missing"]

    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(client), "set_registered_model_alias", dying)
    with pytest.raises(KeyboardInterrupt):
        release(["rect"], Path("models/release"))
    assert version_of(client, "blobex-rect") == 2  # until the folder stands, the alias does not move
    monkeypatch.undo()


def test_the_run_that_made_the_weights_is_found(project, client):
    params = load_params("params.yaml")
    networks, _ = collect(params, "rect", {})
    plain = next(each for each in networks if each.name == "decision plain")
    biased = next(each for each in networks if each.name == "decision biased")
    assert registry.training_run(client, plain) is None
    ids = []
    for number, other in enumerate((plain, biased, None)):  # the newest run logged other weights
        with tracking.run(params, "decision", "rect", variant=other.variant if other else "plain") as tracker:
            file = (other or biased).folder / "weights.safetensors"
            tracker.log_artifact(file)
            ids.append(tracker.run_id)
        assert number or sha256(file) == sha256(plain.folder / "weights.safetensors")
    found = registry.training_run(client, plain)
    assert found.run_id == ids[0] and 0 <= found.seconds < 60
    assert registry.training_run(client, dataclasses.replace(plain, stage="parser")) is None
    client.create_registered_model("decision-rect-plain")
    for run_id in (ids[2], ids[0], ids[2]):
        client.create_model_version("decision-rect-plain", "file:///nowhere", run_id)
    (done,) = release(["rect"], Path("other"), name="ours")
    assert done.models == ("ours-rect 1", "decision-rect-plain 2")
    assert version_of(client, "decision-rect-plain") == 2
    card = (done.folder / "README.md").read_text()
    assert f"| decision plain | {ids[0]} | " in card and f"| decision biased | {ids[1]} | " in card


def test_errors_of_mlflow_are_one_sentence(client):
    with pytest.raises(BlobexError, match=r"MLflow did not do its part \(.*no such model"):
        registry.promote(client, "no such model", "1")
