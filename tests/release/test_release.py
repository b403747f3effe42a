"""`blobex release`: a folder that explains as the originals do, what its card says, and what is refused."""

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
from worlds.tiny_models import pictures, save_models

from blobex.cli import main as cli
from blobex.explain.explainer import Explainer
from blobex.release import release as releasing
from blobex.release.release import release

MEASURES = {
    "blobgan/rect": {"images_seen": 320},
    "encoder_pretrain/rect": {"w_error": 0.5},
    "encoder/rect": {"pd_parser": 1.23456789, "l2": 0.0625},
    "parser/rect": {"semantic_iou": 0.3125, "box_ap50": 0.46053},
    "decision/rect/plain": {"accuracy": 0.929, "f1": 0.8765},
    "decision/rect/biased": {"accuracy": 0.91},
}
EVALUATE = {"flip_rate": 0.75, "flip_rate_low": 0.5, "flip_rate_high": 0.875, "flip_rate_count": 16, "fd_parser": 2.5}
BLOBGAN = "models/blobgan/rect/weights.safetensors"


def trained(folder):
    """A folder as the pipeline leaves it: tiny networks, their measures, an evaluation, and what DVC knows of them."""
    save_models(folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    for place, measures in MEASURES.items():
        (folder / "models" / place / "metrics.json").write_text(json.dumps(measures))
    (folder / "reports/evaluate/rect").mkdir(parents=True)
    (folder / "reports/evaluate/rect/metrics.json").write_text(json.dumps(EVALUATE))
    (folder / "data").mkdir()
    (folder / "data/scenes.json").write_text('{"files": 4321, "scenes": {"seed": 77}}')
    commit(folder)
    return folder


def commit(folder):
    """Write the dvc.lock by which all that is there fits together."""

    def entries(paths):
        found = [path for path in paths if (folder / path).is_file()]
        return [{"path": path, "md5": hashlib.md5((folder / path).read_bytes()).hexdigest()} for path in found]

    tree = yaml.safe_load((folder / "params.yaml").read_text())
    stages = {}
    for place in [*(f"models/{place}" for place in MEASURES), "reports/evaluate/rect"]:
        _, stage, *rest = place.split("/")
        outputs = entries(f"{place}/{name}" for name in ("config.yaml", "metrics.json", "weights.safetensors"))
        inputs = entries([BLOBGAN] if stage in ("encoder", "evaluate") else [])
        params = {stage: tree[stage], "run.seed": tree["run"]["seed"]}
        if stage == "decision":
            params = {"decision.training": tree["decision"]["training"]}
        stages[f"{stage}@{'-'.join(rest)}"] = {"outs": outputs, "deps": inputs, "params": {"params.yaml": params}}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(template, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def standing(template, tmp_path_factory):
    """A release to look at, of the template."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(template)
        (found,) = release(["rect"], tmp_path_factory.mktemp("release"))
    return found.folder


def released():
    (found,) = release(["rect"], Path("models/release"))
    return found.folder


def content(folder):
    """Every file's bytes, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said(explainer):
    """All that the networks of an explainer say of the same pictures."""
    networks, images = explainer.exact, pictures(4)
    layout = networks.encode(images)
    known = networks.perceptual.embed(images)
    answers = [networks.render(layout), networks.decide(images), networks.features(images)]
    return [*(tensor for _, tensor in layout.items()), *answers, networks.perceptual.distance_to(known, images.flip(3))]


def call(monkeypatch, capsys, *arguments):
    """Exit code, stdout and stderr of the command."""
    monkeypatch.setattr(sys, "argv", ["blobex", "release", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0, *capsys.readouterr()


def refusal(monkeypatch, capsys, *arguments):
    """The one line that the command prints of what is wrong."""
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 1 and out == "" and err.startswith("blobex: ") and err.count("\n") == 1
    return err


def spoil_params(section, key, value):
    tree = yaml.safe_load(Path("params.yaml").read_text())
    tree[section][key] = value
    Path("params.yaml").write_text(yaml.safe_dump(tree))


def rows(card, heading):
    """The cells of the tables under a heading."""
    section = re.split(r"^#+ ", card.split(f"# {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]


def test_the_folder_alone_explains_as_the_original(project, tmp_path_factory, monkeypatch):
    before = Explainer.load("rect", "models", "params.yaml", "cpu")
    place = tmp_path_factory.mktemp("elsewhere") / "given"
    shutil.move(released(), place)
    shutil.rmtree(project / "models")
    monkeypatch.chdir(place.parent)
    after = Explainer.load("rect", "given/models", "given/params.yaml", "cpu")
    assert after.weights == before.weights
    assert all(torch.equal(*pair) for pair in zip(said(before), said(after), strict=True))
    biased = Explainer.load("rect", "given/models", "given/params.yaml", "cpu", "biased")
    assert biased.weights["decision"] != after.weights["decision"]


def test_checksums_are_those_of_the_files(standing):
    card = (standing / "README.md").read_text()
    told = {path: checksum for checksum, path in re.findall(r"^([0-9a-f]{64})  (\S+)$", card, re.MULTILINE)}
    found = {name: hashlib.sha256(data).hexdigest() for name, data in content(standing).items() if name != "README.md"}
    assert told == found
    folders = {f"models/{place}" for place in MEASURES}
    assert {str(Path(name).parent) for name in found} == {*folders, "reports/evaluate/rect", "."}
    assert {"LICENSE", "params.yaml"} <= set(found)


def test_hubs_can_read_the_card(standing):
    card = ModelCard((standing / "README.md").read_text())
    assert card.data.license == "mit" and card.data.library_name == "blobex"
    assert card.data.metrics == ["accuracy", "box_ap50", "f1", "semantic_iou"]
    assert card.data.model_name == "blobex-rect"
    told = {(each.dataset_config, each.metric_type): each.metric_value for each in card.data.eval_results}
    places = {
        "parser": "parser/rect",
        "decision plain": "decision/rect/plain",
        "decision biased": "decision/rect/biased",
    }
    assert told == {(name, key): value for name, place in places.items() for key, value in MEASURES[place].items()}


def test_the_card_holds_what_was_measured(standing):
    card = (standing / "README.md").read_text()
    for place, measures in MEASURES.items():
        stage, _, variant = place.partition("/rect")
        told = {name: float(value) for name, value, *_ in rows(card, f"{stage} {variant.strip('/')}".strip())[2:]}
        assert told == {f"`{name}`": pytest.approx(value, rel=1e-3) for name, value in measures.items()}
    assert rows(card, "evaluate")[2:] == [["`flip_rate`", "0.75", "0.5 to 0.875", "16"], ["`fd_parser`", "2.5", "", ""]]
    missing = next(line for line in card.splitlines() if line.startswith("Not in this release: "))
    assert all(f"{name} (not measured)" in missing for name in ("explain basic", "invert", "truth"))
    assert "blobgan_pretrain (not trained)" in missing and "evaluate" not in missing


def test_the_card_holds_what_was_trained_on_what(standing):
    card, tree = (standing / "README.md").read_text(), yaml.safe_load((standing / "params.yaml").read_text())
    told = {cells[0]: cells[1:4] for cells in rows(card, "Training")[2:]}
    trainings = {"parser.training", "decision.training plain", "decision.training biased", "blobgan.training"}
    assert set(told) == trainings | {"encoder_pretrain.training", "encoder.training"}
    assert tree["run"]["batches"] == "pixels" and tree["setups"]["rect"]["aspect_ratio"] == 2
    for name, cells in told.items():
        training = tree[name.split(".")[0]]["training"]
        batch = training["batch_size"] // 2 * training["accumulate"]
        assert [float(cell) for cell in cells] == [training["steps"], batch, training["learning_rate"]]
    assert ["files", "4321"] in rows(card, "Data") and ["scenes.seed", "77"] in rows(card, "Data")
    assert rows(card, "blobex-rect")[2][2] == "trained with blobex, in no run that MLflow knows"


def test_imported_weights_are_called_so(project):
    provenance = {"file": "published.ckpt", "sha256": "ab" * 32}
    (project / "models/blobgan/rect/provenance.yaml").write_text(yaml.safe_dump(provenance))
    (project / "models/blobgan/rect/metrics.json").write_text("{}")
    commit(project)
    folder = released()
    card = ModelCard((folder / "README.md").read_text())
    assert f"imported from published.ckpt, SHA-256 {'ab' * 32}" in card.text
    assert card.data.license == "other" and "blobgan.training" not in {
        cells[0] for cells in rows(card.text, "Training")
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
        (lambda: Path("dvc.lock").unlink(), "there is no dvc.lock here"),
        (lambda: Path("dvc.lock").write_text("stages: ["), "dvc.lock is damaged"),
        (lambda: Path("dvc.lock").write_text("stages: {}"), "dvc commit -f parser@rect"),
        (lambda: spoil_params("run", "seed", 5), "did not run with run.seed as params.yaml has it"),
        (
            lambda: Path("models/encoder/rect/provenance.yaml").write_text(": ["),
            "provenance.yaml is damaged",
        ),
        (
            lambda: Path("models/encoder/rect/metrics.json").write_text("{}"),
            "encoder/rect/metrics.json is not the file that dvc.lock records",
        ),
    ],
)
def test_nothing_is_released_when_something_does_not_fit(project, standing, monkeypatch, capsys, spoil, words):
    shutil.copytree(standing, "models/release/rect")
    before = content(standing)
    spoil()
    assert words in refusal(monkeypatch, capsys)
    assert content(project / "models/release/rect") == before


def test_networks_must_have_met(project, monkeypatch, capsys):
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    source = lock["stages"]["encoder@rect"]["deps"][0]
    assert source["path"] == BLOBGAN
    source["md5"] = "0" * 32  # the BlobGAN was trained anew, what depends on it was not
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    assert f"encoder@rect was made of another {BLOBGAN}: run `dvc repro encoder@rect`" in refusal(monkeypatch, capsys)


def test_measures_of_other_networks_are_left_out(project):
    spoil_params("evaluate", "generated_images", 7)
    folder = released()
    card = (folder / "README.md").read_text()
    assert "evaluate (evaluate@rect did not run with evaluate as params.yaml has it)" in card
    assert "### evaluate" not in card and not (folder / "reports").exists()


def test_all_setups_or_none(project, monkeypatch, capsys):
    said = refusal(monkeypatch, capsys, "--setup", "all", "--to", "out")
    assert "no blobgan weights in models/blobgan/square" in said
    assert "unknown setup" in refusal(monkeypatch, capsys, "--setup", "round", "--to", "out")
    assert "the name" in refusal(monkeypatch, capsys, "--name", "a/b", "--to", "out")
    assert not (project / "out").exists()


def test_other_files_are_not_replaced(project, monkeypatch, capsys):
    before = content(project / "models/blobgan/rect")
    assert "holds config.yaml, which is of no release" in refusal(monkeypatch, capsys, "--to", "models/blobgan")
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
    found = content(project / "models/release/rect").values()
    lines = out.splitlines()
    assert code == 0 and lines[0].endswith(f": {len(found)} files, {sum(map(len, found)) / 1e6:.1f} MB")
    assert lines[2] == "  not registered in MLflow" and "decision night" in lines[1] and "truth" in lines[1]
    assert not (project / "mlruns").exists()
