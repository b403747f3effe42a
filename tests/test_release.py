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
from safetensors.torch import load_file, save_file
from tiny_models import pictures, save_models

from blobex import cli
from blobex.config.read import load_params
from blobex.explainer import Explainer
from blobex.networks.decision import load_decision
from blobex.release import half
from blobex.release import release as releasing
from blobex.release.collect import needed
from blobex.release.release import release

MEASURES = {
    "blobgan/rect": {"images_seen": 320},
    "encoder/rect": {"pd_parser": 1.23456789, "l2": 0.0625},
    "parser/rect": {"semantic_iou": 0.3125, "box_ap50": 0.46053},
    "decision/rect/plain": {"accuracy": 0.929, "f1": 0.8765},
    "decision/rect/biased": {"accuracy": 0.91},
}
EVALUATE = {"flip_rate": 0.75, "flip_rate_low": 0.5, "flip_rate_high": 0.875, "flip_rate_count": 16, "fd_parser": 2.5}


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A folder as training leaves it: five tiny networks, their measures, and an evaluation."""
    folder = save_models(tmp_path_factory.mktemp("trained"))
    for place, measures in MEASURES.items():
        (folder / "models" / place / "metrics.json").write_text(json.dumps(measures))
    (folder / "reports/evaluate/rect").mkdir(parents=True)
    (folder / "reports/evaluate/rect/metrics.json").write_text(json.dumps(EVALUATE))
    return folder


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


def released(**options):
    (found,) = release(["rect"], Path("models/release"), **options)
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


def refusal(monkeypatch, capsys, *arguments):
    """The one line that the command prints of what is wrong."""
    monkeypatch.setattr(sys, "argv", ["blobex", "release", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert end.value.code == 1 and printed.out == ""
    assert printed.err.startswith("blobex: ") and printed.err.count("\n") == 1
    return printed.err


def record(stages):
    """Write a dvc.lock of stages, each as (outputs, dependencies, parameters); MD5 sums are of the files there are."""

    def entries(paths):
        return [
            {"path": path, "hash": "md5", "md5": hashlib.md5(Path(path).read_bytes()).hexdigest()} for path in paths
        ]

    locked = {
        name: {"outs": entries(outs), "deps": entries(deps), "params": {"params.yaml": params}}
        for name, (outs, deps, params) in stages.items()
    }
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))


def record_models():
    """A dvc.lock by which all fits together."""
    made = {
        place: [f"models/{place}/{name}" for name in ("config.yaml", "metrics.json", "weights.safetensors")]
        for place in MEASURES
    }
    keys = {place: re.sub(r"@(\w+)/", r"@\1-", place.replace("/", "@", 1)) for place in MEASURES}
    stages = {keys[place]: (outs, [], {"run.seed": 0}) for place, outs in made.items()}
    blobgan = ["models/blobgan/rect/weights.safetensors"]
    stages["encoder@rect"] = (made["encoder/rect"], blobgan, {"encoder": load_tree()["encoder"]})
    stages["evaluate@rect"] = (["reports/evaluate/rect/metrics.json"], blobgan, {"evaluate": load_tree()["evaluate"]})
    record(stages)


def load_tree():
    return yaml.safe_load(Path("params.yaml").read_text())


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


def test_what_is_needed_follows_the_parameters(project):
    params = load_params("params.yaml")
    names = {each.name for each in needed(params, "rect")[0]}
    assert names == {"blobgan", "encoder", "parser", "decision plain"}
    tree = load_tree()
    tree["invert"]["start"], tree["explain"]["decision"] = "segments", "biased"
    Path("params.yaml").write_text(yaml.safe_dump(tree))
    required, others = needed(load_params("params.yaml"), "rect")
    assert {each.name for each in required} == {"blobgan", "blobgan_pretrain", "parser", "decision biased"}
    assert {each.name for each in others} == {"encoder", "decision plain", "decision night", "decision verge"}


def test_checksums_are_those_of_the_files(template, standing):
    lines = [line.split("  ") for line in (standing / "SHA256SUMS").read_text().splitlines()]
    found = {name: hashlib.sha256(data).hexdigest() for name, data in content(standing).items() if name != "SHA256SUMS"}
    assert {name: checksum for checksum, name in lines} == found
    card = (standing / "README.md").read_text()
    rows = dict(re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \|$", card, re.MULTILINE))
    assert rows == {name: checksum for name, checksum in found.items() if name != "README.md"}
    assert {"LICENSE", "params.yaml", "models/decision/rect/biased/weights.safetensors"} <= set(rows)
    assert (standing / "params.yaml").read_bytes() == (template / "params.yaml").read_bytes()


def test_the_hub_can_read_the_card(standing):
    card = ModelCard((standing / "README.md").read_text())
    assert card.data.license == "mit" and card.data.library_name == "blobex" and card.data.metrics == ["accuracy", "f1"]
    assert card.data.model_name == "blobex-rect"
    told = {(each.dataset_config, each.metric_type): each.metric_value for each in card.data.eval_results}
    places = {
        "parser/rect": "parser",
        "decision/rect/plain": "decision plain",
        "decision/rect/biased": "decision biased",
    }
    assert told == {(name, key): value for place, name in places.items() for key, value in MEASURES[place].items()}


def test_the_card_holds_what_was_measured(standing):
    card = (standing / "README.md").read_text()
    cells = re.findall(r"^\| `(\w+)` \| (\S+) \| (.*?) \| (.*?) \|$", card, re.MULTILINE)
    told = {(name, float(value)) for name, value, _, _ in cells}
    for name, value in (item for measures in MEASURES.values() for item in measures.items()):
        assert any(name == each and value == pytest.approx(number, rel=1e-3) for each, number in told), name
    assert ("flip_rate", "0.75", "0.5 to 0.875", "16") in cells and ("fd_parser", "2.5", "", "") in cells
    assert not any(name.startswith("flip_rate_") for name, *_ in cells)
    silent = next(line for line in card.splitlines() if line.startswith("Missing here: "))
    assert all(f"{name} (not measured)" in silent for name in ("explain basic", "invert", "truth"))
    assert "evaluate" not in silent
    assert "Not in this release: blobgan_pretrain, decision night, decision verge." in card
    assert "biased follow a planted shortcut" in card and "nothing here says how the networks do on photographs" in card


def test_the_card_holds_what_was_trained(standing):
    card, tree = (standing / "README.md").read_text(), yaml.safe_load((standing / "params.yaml").read_text())
    training = tree["blobgan"]["training"]
    row = next(line for line in card.splitlines() if line.startswith("| blobgan | ") and "constant" in line)
    steps, batch = training["steps"], training["batch_size"] * training["accumulate"]
    assert row.split(" | ")[1:4] == [str(steps), str(batch), str(steps * batch)]
    assert "no dvc.lock records" in card and "no run that logged the weights of blobgan" in card
    assert f"with seed {tree['scenes']['seed']} at 64x128" in card


def test_imported_weights_are_called_so(project):
    provenance = {"file": "published.ckpt", "sha256": "ab" * 32}
    (project / "models/blobgan/rect/provenance.yaml").write_text(yaml.safe_dump(provenance))
    (project / "models/blobgan/rect/metrics.json").write_text("{}")
    folder = released()
    card = ModelCard((folder / "README.md").read_text())
    assert f"imported from published.ckpt, SHA-256 {'ab' * 32}" in card.text
    assert card.data.license == "other" and "imported weights stand under the licence of their source" in card.text
    assert not re.search(r"^\| blobgan \| \d+ \|", card.text, re.MULTILINE)  # no training of ours
    assert "blobgan (not measured)" in card.text
    assert yaml.safe_load((folder / "models/blobgan/rect/provenance.yaml").read_text()) == provenance


def spoil_params(project, section, key, value):
    tree = yaml.safe_load((project / "params.yaml").read_text())
    tree[section][key] = value
    (project / "params.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "models/blobgan"), "no blobgan weights in models/blobgan/rect"),
        (lambda folder: (folder / "models/parser/rect/weights.safetensors").unlink(), "dvc repro parser@rect"),
        (
            lambda folder: (folder / "models/encoder/rect/metrics.json").unlink(),
            "models/encoder/rect/metrics.json is m",
        ),
        (lambda folder: (folder / "models/encoder/rect/metrics.json").write_text("[1]"), "metrics.json is damaged"),
        (lambda folder: (folder / "models/parser/rect/weights.safetensors").write_text("x"), "cannot read the parser"),
        (lambda folder: (folder / "params.yaml").unlink(), "cannot read params.yaml"),
        (lambda folder: (folder / "dvc.lock").write_text("stages: ["), "dvc.lock is damaged"),
        (lambda folder: spoil_params(folder, "setups", "rect", {"height": 64, "aspect_ratio": 2}), "but rect has 64x1"),
    ],
)
def test_nothing_is_released_when_something_is_missing(project, standing, monkeypatch, capsys, spoil, words):
    shutil.copytree(standing, "models/release/rect")
    before = content(standing)
    spoil(project)
    assert words in refusal(monkeypatch, capsys)
    assert content(project / "models/release/rect") == before


def test_all_setups_or_none(project, monkeypatch, capsys):
    assert "no blobgan weights in models/blobgan/square" in refusal(
        monkeypatch, capsys, "--setup", "all", "--to", "out"
    )
    assert "unknown setup" in refusal(monkeypatch, capsys, "--setup", "round", "--to", "out")
    assert "the name" in refusal(monkeypatch, capsys, "--name", "a/b", "--to", "out")
    assert not (project / "out").exists()


def test_other_files_are_not_replaced(project, monkeypatch, capsys):
    weights_before = content(project / "models/blobgan/rect")
    assert "holds config.yaml, which is of no release" in refusal(monkeypatch, capsys, "--to", "models/blobgan")
    assert content(project / "models/blobgan/rect") == weights_before
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

    spoil_params(project, "run", "seed", 5)
    monkeypatch.setattr(releasing, "card", dying)
    with pytest.raises(KeyboardInterrupt):
        released()
    assert content(project / "models/release/rect") == before
    assert [path.name for path in (project / "models/release").iterdir()] == ["rect"]


def test_what_dvc_recorded_must_fit(project, monkeypatch, capsys):
    record_models()
    card = (released() / "README.md").read_text()
    assert "dvc.lock records that" in card and "no dvc.lock records" not in card.lower()
    for section, key, value in (
        ("run", "seed", 5),
        ("encoder", "real", {"perceptual": 0.5, "l1": 0, "l2": 0, "decision": 0}),
    ):
        untouched = Path("params.yaml").read_text()
        spoil_params(project, section, key, value)
        assert "as it is in params.yaml: run `dvc repro" in refusal(monkeypatch, capsys)
        Path("params.yaml").write_text(untouched)
    other = project / "models/blobgan/rect/weights.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(other).items()}, other)
    assert f"{other.relative_to(project)} is not the file that dvc.lock records" in refusal(monkeypatch, capsys)
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    for output in lock["stages"]["blobgan@rect"]["outs"]:
        output["md5"] = hashlib.md5(Path(output["path"]).read_bytes()).hexdigest()
    Path("dvc.lock").write_text(yaml.safe_dump(lock))  # the BlobGAN was trained anew, what depends on it was not
    assert "encoder@rect was made of another models/blobgan/rect/weights" in refusal(monkeypatch, capsys)


def test_measures_of_other_networks_are_left_out(project):
    record_models()
    spoil_params(project, "evaluate", "generated_images", 7)
    folder = released()
    card = (folder / "README.md").read_text()
    assert "evaluate (measured before something changed (evaluate@rect did not run with evaluate as it is" in card
    assert "### evaluate" not in card and not (folder / "reports").exists()


def test_half_the_bytes_say_nearly_the_same(project):
    whole = released()
    sizes = {name: len(data) for name, data in content(whole).items()}
    before = said(Explainer.load("rect", whole / "models", whole / "params.yaml", "cpu"))
    folder = released(half=True)
    after = said(Explainer.load("rect", folder / "models", folder / "params.yaml", "cpu"))
    assert any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert half.relative_error(before, after) < 0.05
    card = (folder / "README.md").read_text()
    rows = {
        cells[0]: cells[1:]
        for cells in re.findall(r"^\| ([a-z ]+) \| (half|as trained) \| (\S+) \| (\S+) \|$", card, re.M)
    }
    assert set(rows) == {"blobgan", "encoder", "parser", "decision plain", "decision biased"}
    for name, (stored, error, size) in rows.items():
        stage, _, variant = name.partition(" ")
        file = Path("models", stage, "rect", variant, "weights.safetensors")
        assert (folder / file).stat().st_size == int(size.replace(",", "")) <= sizes[file.as_posix()]
        assert (stored == "half") == (float(error) <= half.LIMIT) and float(error) > 0
        network = half.open_network(stage, file.parent)
        kinds = {each: tensor.dtype for each, tensor in load_file(folder / file).items()}
        parameters = {each for each, _ in network.named_parameters()}
        assert stored == "half" and all((kind == torch.float16) == (each in parameters) for each, kind in kinds.items())
        assert all(
            each.dtype == torch.float32 for each in half.open_network(stage, (folder / file).parent).parameters()
        )


def test_the_error_in_the_card_is_that_of_the_outputs(project):
    folder = released(half=True)
    images = half.pictures(half.open_network("blobgan", Path("models/blobgan/rect")))
    assert images.shape == (8, 3, 32, 64) and images.std() > 0.05
    rough = load_decision(Path("models/decision/rect/plain"))
    with torch.no_grad():
        for parameter in rough.parameters():
            parameter.copy_(parameter.half().float())
        exact = load_decision(Path("models/decision/rect/plain"))
        errors = [
            (one - two).abs().max() / one.abs().max()
            for one, two in ((exact(images), rough(images)), (exact.features(images), rough.features(images)))
        ]
    row = re.search(r"^\| decision plain \| half \| (\S+) \|", (folder / "README.md").read_text(), re.M)
    assert float(row.group(1)) == pytest.approx(max(errors).item(), rel=0.06)


def test_harmful_halves_are_not_stored(project):
    file = project / "models/decision/rect/plain/weights.safetensors"
    tensors = load_file(file)
    tensors["classifier.weight"] *= 1e8  # more than half precision can hold
    save_file(tensors, file)
    folder = released(half=True)
    assert (folder / file.relative_to(project)).read_bytes() == file.read_bytes()
    card = (folder / "README.md").read_text()
    assert re.search(r"^\| decision plain \| as trained \| inf \|", card, re.M)
    assert re.search(r"^\| decision biased \| half \|", card, re.M)


@pytest.mark.parametrize("options", [[], ["--no-register"]])
def test_without_mlflow(project, monkeypatch, capsys, options):
    if options:
        spoil_params(project, "run", "tracking_uri", "sqlite:///mlruns/mlflow.db")
    monkeypatch.setattr(sys, "argv", ["blobex", "release", *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    size = sum(len(data) for data in content(project / "models/release/rect").values())
    assert not end.value.code and lines[0].endswith(f" files, {size / 1e6:.1f} MB")
    assert lines[2] == "  not registered in MLflow" and "decision night" in lines[1] and "truth" in lines[1]
    assert not (project / "mlruns").exists()
