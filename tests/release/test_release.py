"""`blobex release`: a folder that explains as the originals do, its model card, and what is refused."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from imports import ROOT
from worlds.released import content, table_rows
from worlds.tiny_models import smooth_images
from worlds.tiny_networks import randomise
from worlds.trained_project import BLOBGAN, MEASURES, commit, trained

from blobex.cli import main as cli
from blobex.config.read import load_params
from blobex.explain.explainer import Explainer
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.release import release as releasing
from blobex.release.contents import parts_of
from blobex.release.release import release


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def example(template, tmp_path_factory):
    """A release of the template."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(template)
        (written,) = release(["rect"], tmp_path_factory.mktemp("release"))
    return written.folder


def released():
    (written,) = release(["rect"], Path("models/release"))
    return written.folder


def outputs(explainer):
    """The outputs of all networks of an explainer for the same images."""
    networks, images = explainer.exact, smooth_images(4)
    layout = networks.encode(images)
    embedded = networks.perceptual.embed(images)
    distances = networks.perceptual.distance_to(embedded, images.flip(3))
    decided = [networks.render(layout), networks.decide(images), networks.features(images)]
    return [*(tensor for _, tensor in layout.items()), *decided, distances]


def call(monkeypatch, capsys, *arguments):
    """Exit code, stdout and stderr of the command."""
    monkeypatch.setattr(sys, "argv", ["blobex", "release", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0, *capsys.readouterr()


def refusal(monkeypatch, capsys, *arguments):
    """The sentence that the command prints when it fails."""
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 1 and out == "" and err.startswith("blobex: ") and err.count("\n") == 1
    return err


def spoil_params(section, key, value):
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree[section][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(tree))


def test_release_alone_explains_as_the_original(project, tmp_path_factory, monkeypatch):
    before = Explainer.load("rect", "models", "params.yaml", "cpu")
    place = tmp_path_factory.mktemp("elsewhere") / "given"
    shutil.move(released(), place)
    shutil.rmtree(project / "models")
    monkeypatch.chdir(place.parent)
    after = Explainer.load("rect", "given/models", "given/params.yaml", "cpu")
    assert after.weights == before.weights
    assert all(torch.equal(*pair) for pair in zip(outputs(before), outputs(after), strict=True))
    biased = Explainer.load("rect", "given/models", "given/params.yaml", "cpu", "biased")
    assert biased.weights["decision"] != after.weights["decision"]


def test_checksums_are_of_the_files(example):
    card = (example / "README.md").read_text()
    listed = {path: checksum for checksum, path in re.findall(r"^([0-9a-f]{64})  (\S+)$", card, re.MULTILINE)}
    expected = {
        name: hashlib.sha256(data).hexdigest() for name, data in content(example).items() if name != "README.md"
    }
    assert listed == expected
    folders = {f"models/{place}" for place in MEASURES}
    assert {str(Path(name).parent) for name in expected} == {*folders, "reports/evaluate/rect", "."}
    assert {"LICENSE", "params.yaml"} <= set(expected)


def test_model_hubs_can_read_the_card(example):
    card = ModelCard((example / "README.md").read_text())
    assert card.data.license == "mit" and card.data.library_name == "blobex"
    assert card.data.metrics == ["accuracy", "box_ap50", "f1", "semantic_iou"]
    assert card.data.model_name == "blobex-rect"
    listed = {(each.dataset_config, each.metric_type): each.metric_value for each in card.data.eval_results}
    places = {
        "parser": "parser/rect",
        "decision plain": "decision/rect/plain",
        "decision biased": "decision/rect/biased",
    }
    assert listed == {(name, key): value for name, place in places.items() for key, value in MEASURES[place].items()}


def test_card_holds_all_measures(example):
    card = (example / "README.md").read_text()
    for place, measures in MEASURES.items():
        stage, _, variant = place.partition("/rect")
        listed = {
            name: float(value) for name, value, *_ in table_rows(card, f"{stage} {variant.strip('/')}".strip())[2:]
        }
        assert listed == {f"`{name}`": pytest.approx(value, rel=1e-3) for name, value in measures.items()}
    assert table_rows(card, "evaluate")[2:] == [
        ["`flip_rate`", "0.75", "0.5 to 0.875", "16"],
        ["`fd_parser`", "2.5", "", ""],
    ]
    missing = next(line for line in card.splitlines() if line.startswith("Not in this release: "))
    assert all(f"{name} (not measured)" in missing for name in ("explain basic", "invert", "truth"))
    assert "blobgan_pretrain (not trained)" in missing and "evaluate" not in missing


def test_card_holds_trainings_and_data(example):
    card, tree = (example / "README.md").read_text(), yaml.safe_load((example / "params.yaml").read_text())
    listed = {cells[0]: cells[1:4] for cells in table_rows(card, "Training")[2:]}
    trainings = {"parser.training", "decision.training plain", "decision.training biased", "blobgan.training"}
    trainings |= {"witness.decision.training", "witness.reading.training"}
    assert set(listed) == trainings | {"encoder_pretrain.training", "encoder.training"}
    assert tree["run"]["batches"] == "pixels" and tree["setups"]["rect"]["aspect_ratio"] == 2
    for name, cells in listed.items():
        training = tree
        for key in name.split(" ")[0].split("."):
            training = training[key]
        batch = training["batch_size"] // 2 * training["accumulate"]
        assert [float(cell) for cell in cells] == [training["steps"], batch, training["learning_rate"]]
    assert ["files", "4321"] in table_rows(card, "Data") and ["scenes.seed", "77"] in table_rows(card, "Data")
    assert table_rows(card, "blobex-rect")[2][2] == "trained with blobex; MLflow has no run with these weights"


@pytest.mark.slow
def test_imported_weights_are_named_in_the_card(project):
    provenance = {"file": "published.ckpt", "sha256": "ab" * 32}
    (project / "models/blobgan/rect/provenance.yaml").write_text(yaml.safe_dump(provenance))
    (project / "models/blobgan/rect/metrics.json").write_text("{}")
    commit(project)
    folder = released()
    card = ModelCard((folder / "README.md").read_text())
    assert f"imported from published.ckpt, SHA-256 {'ab' * 32}" in card.text
    assert card.data.license == "other" and "blobgan.training" not in {
        cells[0] for cells in table_rows(card.text, "Training")
    }
    assert "### blobgan\n\nNot measured." in card.text
    assert yaml.safe_load((folder / "models/blobgan/rect/provenance.yaml").read_text()) == provenance


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: shutil.rmtree("models/blobgan"), "no blobgan weights in models/blobgan/rect"),
        (lambda: Path("models/decision/rect/biased/config.yaml").unlink(), "dvc repro decision@rect-biased"),
        (lambda: Path("models/encoder/rect/metrics.json").unlink(), "models/encoder/rect/metrics.json is missing"),
        (lambda: Path("models/parser/rect/weights.safetensors").write_text("x"), "cannot read the parser"),
        (lambda: Path("params.yaml").unlink(), "cannot read params.yaml"),
        (lambda: Path("dvc.yaml").unlink(), "run this in the folder of dvc.yaml and dvc.lock"),
        (lambda: Path("dvc.lock").unlink(), "parser@rect is not recorded in dvc.lock"),
        (lambda: Path("dvc.lock").write_text("stages: ["), "run this in the folder of dvc.yaml and dvc.lock"),
        (lambda: spoil_params("run", "seed", 5), "run.seed of parser@rect is modified: run `dvc repro parser@rect`"),
        (
            lambda: Path("models/encoder/rect/provenance.yaml").write_text(": ["),
            "provenance.yaml is damaged",
        ),
        (
            lambda: Path("models/encoder/rect/metrics.json").write_text("{}"),
            "models/encoder/rect/metrics.json of encoder@rect is modified",
        ),
    ],
)
def test_nothing_is_released_if_something_does_not_fit(project, example, monkeypatch, capsys, spoil, words):
    shutil.copytree(example, "models/release/rect")
    before = content(example)
    spoil()
    assert words in refusal(monkeypatch, capsys)
    assert content(project / "models/release/rect") == before


@pytest.mark.slow
def test_networks_must_be_trained_on_each_other(project, monkeypatch, capsys):
    other = randomise(load_blobgan(Path("models/blobgan/rect")), 7)
    weights.save(Path("models/blobgan/rect"), "blobgan", other.config(), other)
    commit(project, "blobgan@rect")
    message = refusal(monkeypatch, capsys)
    assert f"{BLOBGAN} of encoder_pretrain@rect is modified: run `dvc repro encoder_pretrain@rect`" in message


def test_reports_with_other_parameters_are_left_out(project):
    spoil_params("evaluate", "generated_images", 7)
    folder = released()
    card = (folder / "README.md").read_text()
    assert "evaluate (evaluate of evaluate@rect is modified)" in card
    assert "### evaluate" not in card and not (folder / "reports").exists()


def test_all_setups_or_none(project, monkeypatch, capsys):
    message = refusal(monkeypatch, capsys, "--setup", "all", "--to", "out")
    assert "no blobgan weights in models/blobgan/square" in message
    assert "unknown setup" in refusal(monkeypatch, capsys, "--setup", "round", "--to", "out")
    assert "the name" in refusal(monkeypatch, capsys, "--name", "a/b", "--to", "out")
    assert not (project / "out").exists()


def test_other_files_are_not_replaced(project, monkeypatch, capsys):
    before = content(project / "models/blobgan/rect")
    assert "holds config.yaml, which is not of a release" in refusal(monkeypatch, capsys, "--to", "models/blobgan")
    assert content(project / "models/blobgan/rect") == before
    folder = released()
    (folder / "explained").mkdir()
    (folder / "explained/mine.png").write_bytes(b"picture")
    assert "holds explained/mine.png" in refusal(monkeypatch, capsys)
    shutil.rmtree(folder / "explained")
    assert content(folder) == content(released())  # the same again


def test_an_interrupted_release_leaves_the_old_one(project, monkeypatch):
    before = content(released())

    def dying(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(releasing, "card", dying)
    with pytest.raises(KeyboardInterrupt):
        released()
    assert content(project / "models/release/rect") == before
    assert [path.name for path in (project / "models/release").iterdir()] == ["rect"]


@pytest.mark.parametrize("option", ["tracking_uri: none", "--no-register"])
def test_without_mlflow(project, monkeypatch, capsys, option):
    if option == "--no-register":
        spoil_params("run", "tracking_uri", "sqlite:///mlruns/mlflow.db")
    code, out, _ = call(monkeypatch, capsys, *([option] if option == "--no-register" else []))
    files = content(project / "models/release/rect").values()
    lines = out.splitlines()
    assert code == 0 and lines[0].endswith(f": {len(files)} files, {sum(map(len, files)) / 1e6:.1f} MB")
    assert lines[2] == "  not registered in MLflow" and "decision night" in lines[1] and "truth" in lines[1]
    assert not (project / "mlruns").exists()


@pytest.mark.parametrize("setup", ["square", "rect"])
def test_parts_are_those_of_the_pipeline(setup):
    """The networks and metrics of dvc.yaml, in its order; some stages have one setup only."""
    stages, params = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"], load_params(ROOT / "params.yaml")
    parts = list(parts_of(params, setup))
    limited = {"control": params.control.setups, "truth": params.truth.setups, "repair": params.repair.setups}
    measured = [name for name in stages if "metrics" in stages[name] and setup in limited.get(name, [setup])]
    assert list(dict.fromkeys(part.stage for part in parts)) == measured
    for part in parts:
        entry = json.dumps(stages[part.stage]).replace("${item.setup}", setup).replace("${item.variant}", part.variant)
        outputs = json.loads(entry)["metrics"] + (json.loads(entry)["outs"] if part.is_network else [])
        optional = ("/measures.json", "/table.txt")  # the first is copied where it is
        needed = [path for path in outputs if not path.endswith(optional)]
        assert {path.as_posix() for path in part.outputs} == set(needed)
