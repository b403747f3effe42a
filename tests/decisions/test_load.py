"""References of every kind against the models that they name."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F
from worlds.decision_models import CPU, Segmenter, assert_same, by_hand, network, noise, opened, refused

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError
from blobex.decisions.decision import frozen_eval
from blobex.decisions.load import load
from blobex.networks import weights
from blobex.networks.decision import DecisionModel
from blobex.scenes.rules import ACTIONS, REASONS
from blobex.tracking import store as mlflow_store


def saved(folder, outputs=4, height=32, width=32):
    """A decision model of blobex, written to a folder."""
    torch.manual_seed(0)
    model = DecisionModel("densenet_small", height, width, outputs).eval()
    weights.save(folder, "decision", {"setup": "rect", "variant": "plain", **model.config}, model)
    return model


def exported(path, module, batch=2, height=16, width=16, dynamic=None):
    shapes = ({0: dynamic},) if dynamic else None
    torch.export.save(torch.export.export(module, (noise(batch, height, width),), dynamic_shapes=shapes), path)
    return path


def test_weights_of_blobex(tmp_path):
    model = saved(tmp_path / "decision" / "rect" / "biased")
    decision = opened("biased", models=tmp_path)
    assert (decision.kind, decision.outputs, decision.name) == ("attributes", ACTIONS, "biased")
    assert_same(decision.logits, model, noise(2, 32, 32))
    assert_same(decision.features, model.features, noise(2, 32, 32))
    night = saved(tmp_path / "decision" / "rect" / "night")  # any that the pipeline has trained goes by its name
    assert_same(opened("night", models=tmp_path).logits, night, noise(2, 32, 32))
    refused("verge", "is no decision model", models=tmp_path)
    refused("plain", "no decision weights", models=tmp_path)
    refused("biased", "is for 32x32 images but rect has 32x64", models=tmp_path, width=64)


def test_folder_of_weights_has_an_input_size(tmp_path):
    model = saved(tmp_path, outputs=25)
    decision = opened(tmp_path, 48, 96)
    assert decision.outputs == ACTIONS + REASONS
    size = {"size": (32, 32), "mode": "bilinear", "align_corners": False, "antialias": True}
    assert_same(decision.logits, lambda x: model(F.interpolate(x, **size)), noise(2, 48, 96))
    assert opened(tmp_path).outputs == load(model, ImageSize(32, 1), CPU, tmp_path, "rect").outputs
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    refused(tmp_path, "cannot read the decision weights")
    refused(tmp_path / "none", "is no decision model: give plain, biased")


def test_torchscript(tmp_path):
    net = network().eval()
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(net).save("model.pt")
        torch.jit.freeze(torch.jit.script(net)).save("frozen.ts")
    for file in ("model.pt", "frozen.ts"):
        decision = opened(file)
        assert decision.kind == "classes"
        assert_same(decision.logits, net, noise(3, 32, 32))
        with frozen_eval(decision):
            assert_same(decision.logits, net, noise(3, 32, 32))
    torch.save(net.state_dict(), "state.pt")
    refused("state.pt", "not a TorchScript file")
    Path("cut.pt").write_bytes(Path("model.pt").read_bytes()[:500])
    refused("cut.pt", "not a TorchScript file")
    refused("none.pt", "there is no model none.pt")


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("kind", ["fixed", "free", "limited"])
def test_exported_program(kind, batch):
    """Batches are padded and split, and images resized, to the sizes of the program."""
    net = network().eval()
    dynamic = {"fixed": None, "free": torch.export.Dim.DYNAMIC, "limited": torch.export.Dim("batch", min=2, max=3)}
    decision = opened(exported(Path("model.pt2"), net, dynamic=dynamic[kind]))
    images = noise(batch, 32, 32)
    assert_same(decision.logits, lambda x: net(F.interpolate(x, (16, 16), mode="bilinear", antialias=True)), images)
    assert not any(parameter.requires_grad for parameter in decision.modules[0].parameters())


def test_exported_segmentation():
    net = Segmenter()
    decision = opened(exported(Path("model.pt2"), net, height=32, width=32))
    direct = {"size": (32, 32), "mode": "bilinear", "align_corners": False}
    assert_same(decision.logits, lambda x: F.interpolate(net.body(x), **direct), noise(3, 32, 32))


def test_unsuitable_exported_programs_raise(caplog):
    net = network().train()
    refused(exported(Path("training.pt2"), net), "changes with every image: save or export it in eval mode")

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network().eval()

        def forward(self, images):
            with torch.no_grad():
                return self.net(images)

    refused(exported(Path("silent.pt2"), Silent()), "no gradient to the image")
    refused("none.pt2", "there is no model none.pt2")
    Path("cut.pt2").write_bytes(Path("training.pt2").read_bytes()[:5000])
    refused("cut.pt2", "not an exported program")
    torch.save(net.state_dict(), "state.pt2")
    refused("state.pt2", "not an exported program")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


def test_card_with_all_keys(resnet, tmp_path):
    model, path = resnet
    folder = tmp_path / "cards"
    folder.mkdir()
    (folder / "w.pth").write_bytes(path.read_bytes())
    card = {
        **{"model": "torchvision:resnet18:w.pth", "kind": "attributes", "outputs": list("abcde")},
        **{"height": 20, "width": 28, "mean": [0.1, 0.2, 0.3], "std": [1, 0.5, 0.25], "resize": None},
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    decision = opened("cards/card.yaml")
    assert decision.kind == "attributes" and decision.outputs == tuple("abcde")
    assert_same(decision.logits, lambda x: model(by_hand(x, (20, 28), card["mean"], card["std"])), noise(2, 32, 32))
    over = opened("cards/card.yaml", kind="classes", outputs=list("vwxyz"))
    assert over.kind == "classes" and over.outputs == tuple("vwxyz")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: plain\nkinds: classes\n", "unknown key card.kinds: the keys there are model, kind"),
        ("kind: classes\n", "names no model"),
        ("- plain\n", "names no model"),
        ("model: plain\nkind: boxes\n", "card.kind is 'boxes'"),
        ("model: plain\nmean: [0.5]\n", "three numbers"),
        ("model: plain\nstd: [0, 1, 1]\n", r"card.std\[0\] is 0"),
        ("model: plain\nheight: 0\n", "card.height is 0"),
        ("model: 3\n", "card.model is 3"),
        ("model: other.yaml\n", "another card"),
        ("model: [\n", "cannot read the card"),
    ],
)
def test_invalid_cards_raise(text, words):
    Path("card.yaml").write_text(text)
    refused("card.yaml", words)
    refused("none.yaml", "cannot read the card")


def test_mlflow_needs_a_loader():
    net = network()
    decision = opened("models:/net@best", mlflow_loader=lambda uri: net)
    assert decision.name == "models:/net@best" and not net.training
    refused("runs:/123/net", "MLflow, which is off")
    with pytest.raises(BlobexError, match=r"tracking_uri is none"):
        mlflow_store.load_model("models:/net/1", "none", CPU)


@pytest.mark.slow
def test_mlflow_round_trip(tmp_path):
    """A model registered as the decision stage does it, as an exported program."""
    import mlflow
    import mlflow.pytorch

    uri = f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    client = mlflow_store.connect(uri)
    mlflow.set_tracking_uri(uri)
    experiment = client.create_experiment("decision", (tmp_path / "artifacts").as_uri())
    net = network(4).eval()
    run = client.create_run(experiment).info.run_id
    example = np.zeros((2, 3, 16, 16), dtype=np.float32)
    with mlflow.start_run(run_id=run):
        options = {"input_example": example, "pip_requirements": ["torch"], "registered_model_name": "net"}
        mlflow.pytorch.log_model(net, name="net", **options)
    client.set_registered_model_alias("net", "best", "1")

    def loader(reference):
        return mlflow_store.load_model(reference, uri, CPU)

    for reference in ("models:/net@best", "models:/net/1", f"runs:/{run}/net"):
        decision = opened(reference, 16, 16, mlflow_loader=loader)
        for count in (1, 2, 3):
            assert_same(decision.logits, net, noise(count, 16, 16))
    for reference in ("models:/net@worst", "models:/other/1", "runs:/123/net", "models:/net"):
        refused(reference, "MLflow gives no model", mlflow_loader=loader)


def test_import_is_light():
    """MLflow and Lightning are imported only where they are used."""
    command = "import sys, blobex.decisions.load; print('mlflow' in sys.modules, 'pytorch_lightning' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", command], cwd=Path(__file__).parents[2], capture_output=True, check=True
    )
    assert out.stdout.split() == [b"False", b"False"]


@pytest.mark.gpu
def test_devices(resnet, tmp_path):
    """Models from files are moved to the device; a user's module stays, and its outputs are moved."""
    cuda = torch.device("cuda")
    net = network().eval()
    exported(Path("model.pt2"), net, dynamic=torch.export.Dim.DYNAMIC)
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(net).save("model.pt")
    images = noise(3, 16, 16)
    for reference in ("model.pt2", "model.pt", net):
        decision = load(reference, ImageSize(16, 1), cuda, tmp_path, "rect")
        logits = decision.logits(images.to(cuda))
        assert logits.device.type == "cuda"
        torch.testing.assert_close(logits.cpu(), net(images), rtol=1e-3, atol=1e-4)
    assert next(net.parameters()).device.type == "cpu"
    decision = load(f"torchvision:resnet18:{resnet[1]}", ImageSize(32, 1), cuda, tmp_path, "rect")
    assert next(decision.modules[0].parameters()).device.type == "cuda"
    assert decision.features(noise(2, 32, 32).to(cuda)).shape == (2, 512)
