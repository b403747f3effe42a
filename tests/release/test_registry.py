"""Releases in MLflow: versions, the alias, and the runs that trained the networks."""

import json
from pathlib import Path

import pytest
from worlds.released import content, table_rows
from worlds.trained_project import MEASURES, commit, trained

from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.release import registry
from blobex.release.contents import collect
from blobex.release.release import release
from blobex.tracking import runs as tracking
from blobex.tracking import store as mlflow_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = trained(tmp_path_factory.mktemp("tracked"))
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("tracking_uri: none", "tracking_uri: sqlite:///mlruns/mlflow.db"))
    return folder


@pytest.fixture(autouse=True)
def here(project, monkeypatch):
    monkeypatch.chdir(project)


@pytest.fixture(scope="module")
def client(project):
    return mlflow_store.connect(f"sqlite:///{project}/mlruns/mlflow.db")


def version_of(client, model):
    return int(client.get_model_version_by_alias(model, "reference").version)


def test_alias_moves_and_old_versions_stay(project, client, monkeypatch, tmp_path):
    (first,) = release(["rect"], Path("models/release"))
    assert first.models == ["blobex-rect 1"] and version_of(client, "blobex-rect") == 1
    before = content(first.folder)
    (project / "models/parser/rect/metrics.json").write_text(json.dumps({"semantic_iou": 0.5}))
    commit(project)
    (second,) = release(["rect"], Path("models/release"))
    assert second.models == ["blobex-rect 2"] and version_of(client, "blobex-rect") == 2
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
    assert versions["2"].tags["setup"] == "rect" and versions["2"].tags["mlflow.source.git.commit"]

    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(client), "set_registered_model_alias", dying)
    with pytest.raises(KeyboardInterrupt):
        release(["rect"], Path("models/release"))
    monkeypatch.undo()
    assert version_of(client, "blobex-rect") == 2  # until the folder stands, the alias does not move


def test_training_runs_are_found_by_their_weights(client):
    params = load_params("params.yaml")
    contents = collect(params, "rect")
    assert registry.training_runs(client, contents) == {}
    ids = []
    for variant, weights in (("plain", "plain"), ("biased", "biased"), ("plain", "biased")):  # the last logs others
        with tracking.run(params, "decision", "rect", variant=variant) as tracker:
            tracker.log_artifact(Path("models/decision/rect", weights, "weights.safetensors"))
            ids.append(tracker.run_id)
    runs = registry.training_runs(client, contents)
    assert {name: run.run_id for name, run in runs.items()} == {"decision plain": ids[0], "decision biased": ids[1]}
    assert all(0 <= run.minutes < 1 for run in runs.values())
    client.create_registered_model("decision-rect-plain")
    for run_id in (ids[2], ids[0], ids[2]):
        client.create_model_version("decision-rect-plain", "file:///nowhere", run_id)
    (done,) = release(["rect"], Path("other"), name="ours")
    assert done.models == ["ours-rect 1", "decision-rect-plain 2"]
    assert version_of(client, "decision-rect-plain") == 2
    origins = {cells[0]: cells[2] for cells in table_rows((done.folder / "README.md").read_text(), "ours-rect")}
    assert (
        f"MLflow run {ids[0]} " in origins["decision plain"] and f"MLflow run {ids[1]} " in origins["decision biased"]
    )


def test_mlflow_errors_are_one_sentence(client):
    contents = collect(load_params("params.yaml"), "rect")
    with pytest.raises(BlobexError, match=r"MLflow failed \(.*no such model"):
        registry.promote(client, "no such model", "1", contents, {})
