"""`blobex import` of published files into the models folder."""

import dataclasses
import hashlib
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner
from worlds.published_form import NETWORKS, checkpoint_of, published_decision, published_residual
from worlds.tiny_networks import TINY, random_blobgan, randomise, tiny_network

from blobex import __version__
from blobex.cli import main as cli
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.layout.blobs import KEYS, from_dict
from blobex.networks import import_weights as importing
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import DecisionModel, load_decision
from blobex.networks.encoder import ResidualNetwork, load_encoder
from blobex.networks.parser import Parser

GOLDEN = Path(__file__).parents[1] / "golden"
PARAMS = Path(__file__).parents[2] / "profiles" / "synthetic.yaml"
TOLERANCE = 1e-4


def write_params(folder, **setups):
    """The default parameters with other sizes of images, as {setup: (height, aspect ratio)}."""
    tree = asdict(load_params(PARAMS))
    for setup, (height, aspect_ratio) in setups.items():
        tree["setups"][setup] = {"height": height, "aspect_ratio": aspect_ratio}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The current folder, with params.yaml for the golden images; latents are few, to be quick."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importing, "MEAN_W_SAMPLES", 700)
    write_params(tmp_path, square=(32, 1), rect=(32, 2))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli.app, ["import", *map(str, arguments)], catch_exceptions=False)


def refusal(monkeypatch, capsys, *arguments):
    """Run a failing import and return its one line of error."""
    monkeypatch.setattr(sys, "argv", ["blobex", "import", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert end.value.code == 1 and printed.out == ""
    assert printed.err.startswith("blobex: ") and printed.err.count("\n") == 1
    return printed.err


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def filled(shapes, seed):
    random = torch.Generator().manual_seed(seed)
    names = sorted(name for name in shapes if not name.endswith("kernel"))
    state = {name: torch.randn(tuple(shapes[name]), generator=random) for name in names}
    return state | {name: torch.ones(tuple(shapes[name])) for name in shapes if name not in state}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("setup", ["square", "rect"])
def test_golden_numbers_through_the_command(project, setup, legacy):
    golden = torch.load(GOLDEN / f"blobgan_tiny_{setup}.pt", weights_only=True)
    torch.save(golden["checkpoint"], "published.ckpt", _use_new_zipfile_serialization=not legacy)
    assert run("published.ckpt", "--as", "generator", "--setup", setup).exit_code == 0
    model = load_blobgan(project / "models" / "blobgan" / setup)
    w = model.layout_network.to_w(golden["z"])
    assert relative_error(w, golden["w"]) < TOLERANCE
    layout = model.layout_from_w(w)
    for key in KEYS:
        assert relative_error(getattr(layout, key), golden["layout"][key]) < TOLERANCE, key
    layout = from_dict({key: tensor.clone().requires_grad_() for key, tensor in golden["layout"].items()})
    grids = []
    model.generator.first.register_forward_pre_hook(lambda module, inputs: grids.append(inputs[0]))
    image = model.render(layout, golden["noise"])
    assert relative_error(grids[0], golden["feature_grid"]) < TOLERANCE
    assert relative_error(image, golden["image"]) < TOLERANCE
    (image * golden["probe"]).sum().backward()
    for key in KEYS:
        assert relative_error(getattr(layout, key).grad, golden["grad"][key]) < TOLERANCE, key


@pytest.mark.parametrize("setup", ["square", "rect"])
def test_golden_encoder_through_the_command(project, setup):
    golden = torch.load(GOLDEN / f"blobgan_tiny_{setup}.pt", weights_only=True)
    state = filled(golden["encoder"]["shapes"], golden["encoder"]["fill_seed"])
    torch.save({"model": state, "optim": {}, "iter": 3}, "encoder.ckpt")
    torch.save(golden["checkpoint"], "published.ckpt")
    assert run("published.ckpt", "--as", "generator", "--setup", setup).exit_code == 0
    assert run("encoder.ckpt", "--as", "encoder", "--setup", setup).exit_code == 0
    encoder = load_encoder(project / "models" / "encoder" / setup)
    assert relative_error(encoder(golden["image"]), golden["encoder_out"]) < TOLERANCE
    assert encoder.mlp_idx == -1


@pytest.mark.parametrize(("network", "height", "aspect_ratio"), NETWORKS)
def test_generator_of_any_size(project, network, height, aspect_ratio):
    setup = "square" if aspect_ratio == 1 else "rect"
    write_params(project, **{setup: (height, aspect_ratio)})
    model = random_blobgan(network, height, aspect_ratio, seed=7)
    torch.save(checkpoint_of(model), "published.ckpt")
    printed = run("published.ckpt", "--as", "generator", "--setup", setup)
    assert printed.stdout.splitlines()[0] == f"models/blobgan/{setup}"
    folder = project / "models" / "blobgan" / setup
    imported = load_blobgan(folder)
    layout = model.sample(torch.randn(2, network.z_dim, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(imported.render(layout), model.render(layout))
    assert weights.read_config(folder, "blobgan")["setup"] == setup
    names = ["config.yaml", "metrics.json", "provenance.yaml", "weights.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names


def test_mean_of_w_is_seeded_and_near_that_of_many_latents(project):
    model = random_blobgan(TINY, 16)
    write_params(project, square=(16, 1))
    torch.save(checkpoint_of(model), "published.ckpt")
    folder = project / "models" / "blobgan" / "square"
    content = {}
    for name, seed in {"first": 0, "again": 0, "other": 1}.items():
        assert run("published.ckpt", "--as", "generator", "--setup", "square", "--seed", seed).exit_code == 0
        content[name] = (folder / "weights.safetensors").read_bytes()
    assert content["first"] == content["again"] != content["other"]
    w = model.layout_network.to_w(torch.randn(20_000, model.z_dim, generator=torch.Generator().manual_seed(9)))
    spread = w.std(0) / 700**0.5
    assert ((load_blobgan(folder).mean_w - w.mean(0)).abs() < 5 * spread + 1e-6).all()


def test_provenance(project):
    write_params(project, square=(16, 1))
    checkpoint = checkpoint_of(random_blobgan()) | {"optimizer_states": [{}]}
    checkpoint["hyper_parameters"] |= {"glow": 3, "lr": 0.002}
    torch.save(checkpoint, "published.ckpt")
    printed = run("published.ckpt", "--as", "generator", "--setup", "square", "--seed", "3").stdout
    provenance = yaml.safe_load((project / "models/blobgan/square/provenance.yaml").read_text())
    data = Path("published.ckpt").read_bytes()
    raw = sum(name.startswith("generator.") for name in checkpoint["state_dict"])
    assert provenance == {
        "file": "published.ckpt",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "form": "PyTorch zip file, generator_ema and layout_net_ema under state_dict",
        "blobex": __version__,
        "dropped": [
            "epoch",
            "optimizer_states",
            f"state_dict: generator.* ({raw} tensors)",
            "state_dict: *.kernel (2 fixed filters)",
            "state_dict: generator_ema.noises.* (1 tensors)",
        ],
        "computed": ["mean_w over 700 z of seed 3", "noise maps of seed 0, as the published code draws them"],
        "settings": ["resolution: 16", "layout_net.norm_features: True", "aspect_ratio: 1"],
        "defaults": ["ab_norm: 0.02", "layout_net.mlp_lr_mul: 0.01"],
        "unused": ["lr"],
        "unknown": ["glow: 3"],
    }
    assert provenance["sha256"] in printed and "mean_w over 700 z of seed 3" in printed


def encoder_file(w_size=12, height=16, aspect_ratio=1, **settings):
    network = ResidualNetwork(TINY.discriminator_channels, aspect_ratio, w_size, standard_deviation=False)
    return {"model": published_residual(randomise(network)), **settings}


def decision_file(outputs=4, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomise(DecisionModel("densenet_small", 32, 64, outputs), spread=0.1).eval()
    return model, published_decision(model, **options)


@pytest.mark.parametrize("outputs", [4, 25])
def test_decision_model_and_its_variants(project, outputs):
    model, checkpoint = decision_file(outputs, holder="module.")
    torch.save(checkpoint, "decision.tar")
    assert run("decision.tar", "--as", "decision", "--setup", "rect").exit_code == 0
    assert run("decision.tar", "--as", "decision", "--setup", "rect", "--variant", "biased").exit_code == 0
    for variant in ("plain", "biased"):
        folder = project / "models" / "decision" / "rect" / variant
        loaded = load_decision(folder)
        image = torch.rand(2, 3, 32, 64) * 2 - 1
        assert torch.equal(loaded(image), model(image)) and len(loaded.output_names) == outputs
        assert yaml.safe_load((folder / "config.yaml").read_text()) == {
            **{"kind": "decision", "setup": "rect", "variant": variant, "architecture": "densenet_small"},
            **{"height": 32, "width": 64, "outputs": outputs},
        }
        provenance = yaml.safe_load((folder / "provenance.yaml").read_text())
        assert provenance["dropped"] == ["epoch"] and provenance["computed"] == []
        assert provenance["form"] == "PyTorch zip file, decision under model_state_dict, names after module."


def test_reasons_of_an_explainer_are_dropped_and_listed(project):
    model, checkpoint = decision_file(holder="module.")
    features = model.classifier.in_features
    explainer = {"weight": torch.zeros(21, features + 4), "bias": torch.zeros(21)}
    checkpoint["model_state_dict"] |= {f"module.explainer.{name}": tensor for name, tensor in explainer.items()}
    torch.save(checkpoint, "decision.tar")
    printed = run("decision.tar", "--as", "decision", "--setup", "rect").stdout
    listed = "model_state_dict: explainer.* (2 tensors, the reasons)"
    provenance = yaml.safe_load((project / "models/decision/rect/plain/provenance.yaml").read_text())
    assert provenance["dropped"] == ["epoch", listed] and listed in printed
    image = torch.rand(2, 3, 32, 64) * 2 - 1
    assert torch.equal(load_decision(project / "models/decision/rect/plain")(image), model(image))


def test_mlp_idx_of_an_encoder_is_given_or_noted(project, monkeypatch, capsys):
    """Published scripts do not write it; their default is -1."""
    write_params(project, square=(16, 1))
    torch.save(checkpoint_of(random_blobgan()), "published.ckpt")
    run("published.ckpt", "--as", "generator", "--setup", "square")
    torch.save(encoder_file(iter=3, args={"lr": 0.002}), "encoder.pt")
    folder = project / "models/encoder/square"
    for options, expected, settings, defaults in (
        (["--mlp-idx", "-2"], -2, ["--mlp-idx: -2"], []),
        ([], -1, [], ["mlp_idx: -1"]),
    ):
        assert run("encoder.pt", "--as", "encoder", "--setup", "square", *options).exit_code == 0
        assert load_encoder(folder).mlp_idx == expected
        provenance = yaml.safe_load((folder / "provenance.yaml").read_text())
        assert (provenance["settings"], provenance["defaults"]) == (settings, defaults)
        assert provenance["unknown"] == ["args.lr: 0.002"]
    torch.save(encoder_file(w_size=TINY.z_dim), "first.pt")  # of the first layer, whose input has z_dim numbers
    words = refusal(monkeypatch, capsys, "first.pt", "--as", "encoder", "--setup", "square")
    assert "has 12 at mlp_idx -1: give its mlp_idx by --mlp-idx" in words
    assert run("first.pt", "--as", "encoder", "--setup", "square", "--mlp-idx", "-4").exit_code == 0
    assert load_encoder(folder).mlp_idx == -4
    words = refusal(monkeypatch, capsys, "published.ckpt", "--as", "generator", "--setup", "square", "--mlp-idx", "-2")
    assert "--mlp-idx is of encoders, not of a generator: leave it out" in words


def test_decision_config_without_outputs_loads(project):
    torch.save(decision_file()[1], "decision.tar")
    run("decision.tar", "--as", "decision", "--setup", "rect")
    path = project / "models/decision/rect/plain/config.yaml"
    path.write_text(re.sub("outputs: 4\n", "", path.read_text()))
    assert load_decision(path.parent).config["outputs"] == 4


def test_imported_networks_explain(project):
    tree = yaml.safe_load((project / "params.yaml").read_text())
    for stage in ("invert", "explain"):
        tree[stage]["square"]["steps"] = 2
    tree["invert"]["start"] = "encoder"
    (project / "params.yaml").write_text(yaml.safe_dump(tree))
    network = tiny_network(channels={8: 8, 16: 6, 32: 4})
    body = ResidualNetwork({4: 8, 8: 6, 16: 4, 32: 4}, 1, network.layout_hidden, standard_deviation=False)
    files = {
        "generator": checkpoint_of(random_blobgan(network, 32)),
        "encoder": {"model": published_residual(randomise(body))},
        "decision": decision_file(25)[1],
    }
    for kind, content in files.items():
        torch.save(content, f"{kind}.ckpt")
        assert run(f"{kind}.ckpt", "--as", kind, "--setup", "square").exit_code == 0
    parser = Parser([8, 8], 32, 32)
    weights.save(Path("models/parser/square"), "parser", parser.config, parser)
    params = load_params("params.yaml")
    segments = dataclasses.replace(params, invert=dataclasses.replace(params.invert, start="blobgan_pretrain"))
    with pytest.raises(BlobexError, match=r"set invert\.start to encoder"):
        Explainer.load("square", device="cpu", params=segments)
    record = Explainer.load("square", device="cpu").explain(np.full((40, 50, 3), 99, np.uint8), Request(["stop"]))[0]
    assert not record.failed and record.counterfactual.shape == (32, 32, 3)


def test_other_files_of_the_folder_are_kept(project):
    write_params(project, square=(16, 1))
    torch.save(checkpoint_of(random_blobgan()), "published.ckpt")
    folder = project / "models/blobgan/square"
    (folder / "checkpoints" / "previous").mkdir(parents=True)
    (folder / "checkpoints" / "previous" / "step-00000001.ckpt").write_bytes(b"one")
    (folder / "checkpoints" / "step-00000002.ckpt").write_bytes(b"two")
    for name in (".gitignore", "metrics.json", "weights.safetensors", "config.yaml"):
        (folder / name).write_text("old")
    assert run("published.ckpt", "--as", "generator", "--setup", "square").exit_code == 0
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        *("checkpoints/previous/step-00000001.ckpt", "checkpoints/step-00000002.ckpt", ".gitignore"),
        *("config.yaml", "weights.safetensors", "provenance.yaml", "metrics.json"),
    }
    assert (folder / "checkpoints/previous/step-00000001.ckpt").read_bytes() == b"one"
    assert load_blobgan(folder).height == 16
    assert (folder / "metrics.json").read_text() == "{}\n"  # those of the weights before are gone
    assert [path.name for path in folder.parent.iterdir()] == ["square"]
    assert folder.stat().st_mode == folder.parent.stat().st_mode


@pytest.mark.parametrize("moment", ["writing", "swapping", "linking"])
def test_interrupted_import_leaves_the_old_folder(project, monkeypatch, moment):
    write_params(project, square=(16, 1))
    torch.save(checkpoint_of(random_blobgan(seed=1)), "old.ckpt")
    torch.save(checkpoint_of(random_blobgan(seed=2)), "new.ckpt")
    folder = project / "models/blobgan/square"
    run("old.ckpt", "--as", "generator", "--setup", "square")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-00000002.ckpt").write_bytes(b"two")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def dying(*arguments, **options):
        raise KeyboardInterrupt

    rename = Path.rename
    if moment == "writing":
        monkeypatch.setattr(weights, "save", dying)
    elif moment == "linking":
        monkeypatch.setattr("os.link", dying)
    else:
        monkeypatch.setattr(Path, "rename", lambda a, b: dying() if a.name == "new" else rename(a, b))
    with pytest.raises(KeyboardInterrupt):
        importing.import_file(Path("new.ckpt"), "generator", "square", load_params("params.yaml"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["square"]


def test_import_works_without_links(project, monkeypatch):
    def no_links(*_, **__):
        raise OSError("this file system has none")

    monkeypatch.setattr("os.link", no_links)
    test_other_files_of_the_folder_are_kept(project)


def damaged(checkpoint, name, value):
    tensor = checkpoint["state_dict"][name].clone()
    tensor.view(-1)[0] = value
    return {**checkpoint, "state_dict": {**checkpoint["state_dict"], name: tensor}}


GENERATOR = checkpoint_of(random_blobgan(TINY, 16))
NAN = damaged(GENERATOR, "generator_ema.conv1.conv.weight", float("nan"))
INFINITE = damaged(GENERATOR, "layout_net_ema.mlp.2.bias", float("inf"))
NAN_RUNNING = decision_file()[1]
NAN_RUNNING["model_state_dict"]["feat_extract.feat_extract.norm0.running_var"][0] = float("nan")
MISTAKES = [
    (GENERATOR, ["generator", "square"], "set setups.square to {height: 16, aspect_ratio: 1}"),
    (GENERATOR, ["encoder", "square"], "holds no published encoder but generator: check --as"),
    (GENERATOR, ["decision", "square"], "holds no published decision but generator: check --as"),
    (encoder_file(), ["generator", "square"], "holds no published generator but encoder: check --as"),
    (encoder_file(), ["encoder", "rect"], "set setups.rect to {height: 16, aspect_ratio: 1}"),
    (decision_file()[1], ["encoder", "rect"], "holds no published encoder but decision: check --as"),
    ({"epoch": 3}, ["generator", "rect"], "but no known network"),
    ({1: 2, "state_dict": {3: 4}}, ["encoder", "rect"], "but no known network"),
    (GENERATOR, ["discriminator", "rect"], "unknown kind 'discriminator': choose generator, encoder, decision"),
    (GENERATOR, ["generator", "wide"], "unknown setup 'wide'"),
    (GENERATOR, ["decision", "rect", "--variant", "../up"], "cannot name a folder"),
    (NAN, ["generator", "small"], "first.conv.weight has values that are not finite"),
    (INFINITE, ["generator", "small"], "layers.1.bias has values that are not finite"),
    (NAN_RUNNING, ["decision", "rect"], "body.norm0.running_var has values that are not finite"),
    (encoder_file(w_size=5), ["encoder", "small"], "its w has 5 numbers but that of the BlobGAN in"),
    (encoder_file(args={"mlp_idx": -9}), ["encoder", "small"], "mlp_idx -9"),
]


@pytest.mark.parametrize(("checkpoint", "options", "words"), MISTAKES, ids=range(len(MISTAKES)))
def test_errors_are_one_line_and_write_nothing(project, monkeypatch, capsys, checkpoint, options, words):
    if options[1] == "small":  # the setup fits, and has a BlobGAN
        options = [options[0], "square", *options[2:]]
        write_params(project, square=(16, 1))
        torch.save(GENERATOR, "published.ckpt")
        run("published.ckpt", "--as", "generator", "--setup", "square")
    torch.save(checkpoint, "file.ckpt")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert words in refusal(monkeypatch, capsys, "file.ckpt", "--as", options[0], "--setup", *options[1:])
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_errors_for_files_of_other_kinds_are_one_line(project, monkeypatch, capsys):
    torch.save(GENERATOR, "whole.ckpt")
    content = Path("whole.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(content[: len(content) // 2])
    Path("empty.ckpt").write_bytes(b"")
    save_file({"a": torch.zeros(1)}, "model.safetensors")
    expected = {
        "cut.ckpt": "damaged or of another format",
        "empty.ckpt": "damaged or of another format",
        "model.safetensors": "is a safetensors file",
        "none.ckpt": "there is no checkpoint none.ckpt",
        ".": "another format",
    }
    for name, words in expected.items():
        assert words in refusal(monkeypatch, capsys, name, "--as", "generator", "--setup", "square")
    assert not Path("models").exists()
    Path("models").write_text("a file")
    write_params(project, square=(16, 1))
    assert "cannot write" in refusal(monkeypatch, capsys, "whole.ckpt", "--as", "generator", "--setup", "square")
