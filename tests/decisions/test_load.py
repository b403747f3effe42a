"""Every kind of reference against the model that it names, called directly."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from decisions.test_source import CPU, IMAGENET, Segmenter, by_hand, network, noise, same
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from blobex.core.errors import BlobexError
from blobex.decisions.decision import frozen_eval
from blobex.decisions.load import load
from blobex.networks import weights
from blobex.networks.decision import DecisionModel
from blobex.scenes.rules import ACTIONS, REASONS
from blobex.tracking import store as mlflow_store

NUMBERS = IMAGENET.mean, IMAGENET.std


def opened(reference, height=32, width=32, models=Path(), **options):
    return load(str(reference), height, width, CPU, models, "rect", **options)


def refused(reference, words, **options):
    with pytest.raises(BlobexError, match=words) as caught:
        opened(reference, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def saved(folder, outputs=4, height=32, width=32):
    """A decision model of blobex, written to a folder."""
    torch.manual_seed(0)
    model = DecisionModel("densenet_small", height, width, outputs).eval()
    weights.save(folder, "decision", {"setup": "rect", "variant": "plain", **model.config}, model)
    return model


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A ResNet-18 of five classes, and its state dict on disk."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=5)
    model(torch.randn(4, 3, 32, 32))  # running statistics of its own
    path = tmp_path_factory.mktemp("zoo") / "weights.pth"
    torch.save(model.state_dict(), path)
    return model.eval(), path


def exported(path, module, batch=2, height=16, width=16, dynamic=None):
    shapes = ({0: dynamic},) if dynamic else None
    torch.export.save(torch.export.export(module, (noise(batch, height, width),), dynamic_shapes=shapes), path)
    return path


def test_weights_of_blobex(tmp_path):
    model = saved(tmp_path / "decision" / "rect" / "biased")
    decision = opened("biased", models=tmp_path)
    assert (decision.kind, decision.outputs, decision.name) == ("attributes", ACTIONS, "biased")
    same(decision.logits, model, noise(2, 32, 32))
    same(decision.features, model.features, noise(2, 32, 32))
    refused("plain", "no decision weights", models=tmp_path)
    refused("biased", "is for 32x32 pictures but rect has 32x64", models=tmp_path, width=64)


def test_folder_of_weights_reads_pictures_of_its_own_size(tmp_path):
    model = saved(tmp_path, outputs=25)
    decision = opened(tmp_path, 48, 64)
    assert decision.outputs == ACTIONS + REASONS
    size = {"size": (32, 32), "mode": "bilinear", "align_corners": False, "antialias": True}
    same(decision.logits, lambda x: model(F.interpolate(x, **size)), noise(2, 48, 64))
    assert opened(tmp_path).outputs == load(model, 32, 32, CPU, tmp_path, "rect").outputs
    (tmp_path / "weights.safetensors").write_bytes(b"nothing")
    refused(tmp_path, "cannot read the decision weights")
    refused(tmp_path / "none", "is no decision model: give plain, biased")


def test_torchvision_classifier(resnet):
    model, path = resnet
    decision = opened(f"torchvision:resnet18:{path}")
    assert decision.kind == "classes" and decision.outputs == ("0", "1", "2", "3", "4")
    same(decision.logits, lambda x: model(by_hand(x, (224, 224), *NUMBERS)), noise(1, 32, 32))
    body = nn.Sequential(*list(model.children())[:-1], nn.Flatten())
    same(decision.features, lambda x: body(by_hand(x, (224, 224), *NUMBERS)), noise(1, 32, 32))
    assert not any(p.requires_grad for p in decision.modules[0].parameters()) and not decision.modules[0].training


def test_torchvision_loading_draws_nothing_from_the_random_state(resnet):
    before = torch.get_rng_state()
    opened(f"torchvision:resnet18:{resnet[1]}")
    assert torch.equal(torch.get_rng_state(), before)


def test_torchvision_classes_have_names():
    """A model of ImageNet's thousand classes carries their names."""
    from blobex.decisions.decision import output_index
    from blobex.decisions.zoo import zoo_source

    model = torchvision.models.squeezenet1_1(weights=None)
    path = Path("squeezenet.pth")
    torch.save(model.state_dict(), path)
    names = zoo_source(f"torchvision:squeezenet1_1:{path}", Path(), CPU).names
    assert names == tuple(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"])
    decision = opened(f"torchvision:squeezenet1_1:{path}")
    assert output_index(decision, "minibus") == 654


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvision_segmentation(name, tmp_path):
    """With an auxiliary head, which only training reads; the card makes the pictures small."""
    torch.manual_seed(0)
    extra = {"aux_loss": True} if name.startswith("deeplab") else {}
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=3, **extra).eval()
    assert bool(extra) == any(key.startswith("aux_classifier.") for key in model.state_dict())
    torch.save(model.state_dict(), tmp_path / "w.pth")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({"model": f"torchvision:{name}:w.pth", "height": 48}))
    decision = opened(tmp_path / "card.yaml", 32, 64)
    assert decision.kind == "segmentation" and decision.outputs == ("0", "1", "2")

    def direct(x):
        labels = model(by_hand(x, (48, 96), *NUMBERS))["out"]
        return F.interpolate(labels, (32, 64), mode="bilinear", align_corners=False)

    same(decision.logits, direct, noise(2, 32, 64))


def test_torchvision_declares_what_its_models_read(resnet):
    from blobex.decisions.zoo import _input

    swin = torchvision.models.get_model_weights("swin_t").DEFAULT.transforms()
    assert (_input(swin).height, _input(swin).width, _input(swin).resize) == (224, 224, "bicubic")
    deeplab = torchvision.models.get_model_weights("deeplabv3_resnet50").DEFAULT.transforms()
    assert _input(deeplab).size(256, 512) == (520, 1040)


def test_inception_reads_pictures_as_torchvision_makes_it(tmp_path):
    """torchvision's weights come with a second normalisation inside the model, and with an auxiliary head."""
    from blobex.decisions.zoo import zoo_source

    torch.manual_seed(0)
    with torch.random.fork_rng():
        model = torchvision.models.googlenet(
            weights=None, num_classes=3, transform_input=True, aux_logits=True, init_weights=False
        ).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    source = zoo_source("torchvision:googlenet:w.pth", tmp_path, CPU)
    pictures = noise(1, 64, 64)
    torch.testing.assert_close(source.answer(pictures), model(pictures))


def test_old_names_of_densenet(tmp_path):
    """The published file has dots where torchvision has none today."""
    import re

    from blobex.decisions.zoo import zoo_source

    torch.manual_seed(0)
    model = torchvision.models.densenet121(weights=None, num_classes=2).eval()
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value for key, value in model.state_dict().items()}
    assert old.keys() != model.state_dict().keys()
    torch.save(old, tmp_path / "w.pth")
    source = zoo_source("torchvision:densenet121:w.pth", tmp_path, CPU)
    assert torch.equal(source.answer(noise(1, 32, 32)), model(noise(1, 32, 32)))


@pytest.mark.parametrize("form", ["nested", "distributed", "safetensors"])
def test_forms_of_state_dicts(resnet, tmp_path, form):
    from blobex.decisions.zoo import zoo_source

    model, _ = resnet
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "nested":
        torch.save({"model": model.state_dict(), "epoch": 3, "optimizer": {}}, path)
    elif form == "distributed":
        torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    else:
        save_file(model.state_dict(), path)
    source = zoo_source(f"torchvision:resnet18:{path}", Path(), CPU)
    assert torch.equal(source.answer(noise()), model(noise()))


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("sentinel"),)


def test_torchvision_files_that_cannot_be_used(resnet, tmp_path):
    _, path = resnet
    refused(f"torchvision:resnet34:{path}", "not those of a resnet34")
    refused(f"torchvision:vgg11:{path}", "not those of a vgg11")
    refused(f"torchvision:fasterrcnn_resnet50_fpn:{path}", "names no model")
    refused(f"torchvision:resnet19:{path}", "names no model")
    refused("torchvision:resnet18", "names no model")
    refused("torchvision:resnet18:none.pth", "there is no checkpoint none.pth")
    refused("torchvision:resnet18:none.safetensors", "cannot read the weights")
    Path("cut.pth").write_bytes(path.read_bytes()[:1000])
    refused("torchvision:resnet18:cut.pth", "damaged")
    torch.save({"epoch": 3}, "empty.pth")
    refused("torchvision:resnet18:empty.pth", "no state dict")
    torch.save(Malicious(), "bad.pth")
    refused("torchvision:resnet18:bad.pth", "could run code")
    assert not Path("sentinel").exists()
    state = torch.load(path, weights_only=True)
    state["fc.bias"][0] = float("nan")
    torch.save(state, "nan.pth")
    refused("torchvision:resnet18:nan.pth", "not finite")


def test_torchscript(tmp_path):
    net = network().eval()
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(net).save("model.pt")
        torch.jit.freeze(torch.jit.script(net)).save("frozen.ts")
    for file in ("model.pt", "frozen.ts"):
        decision = opened(file)
        assert decision.kind == "classes"
        same(decision.logits, net, noise(3, 32, 32))
        with frozen_eval(decision):
            same(decision.logits, net, noise(3, 32, 32))
    torch.save(net.state_dict(), "state.pt")
    refused("state.pt", "not a TorchScript file")
    Path("cut.pt").write_bytes(Path("model.pt").read_bytes()[:500])
    refused("cut.pt", "not a TorchScript file")
    refused("none.pt", "there is no model none.pt")


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("kind", ["fixed", "free", "limited"])
def test_exported_program(kind, batch):
    """A fixed batch is filled up and cut; also pictures are brought to the size of the program's."""
    net = network().eval()
    dynamic = {"fixed": None, "free": torch.export.Dim.DYNAMIC, "limited": torch.export.Dim("batch", min=2, max=3)}
    decision = opened(exported(Path("model.pt2"), net, dynamic=dynamic[kind]))
    pictures = noise(batch, 32, 32)
    same(decision.logits, lambda x: net(F.interpolate(x, (16, 16), mode="bilinear", antialias=True)), pictures)
    assert not any(parameter.requires_grad for parameter in decision.modules[0].parameters())


def test_exported_segmentation():
    net = Segmenter()
    decision = opened(exported(Path("model.pt2"), net, height=32, width=32))
    direct = {"size": (32, 32), "mode": "bilinear", "align_corners": False}
    same(decision.logits, lambda x: F.interpolate(net.body(x), **direct), noise(3, 32, 32))


def test_exported_programs_that_cannot_be_used(caplog):
    net = network().train()
    refused(exported(Path("training.pt2"), net), "changes with every picture: save or export it in eval mode")

    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network().eval()

        def forward(self, pictures):
            with torch.no_grad():
                return self.net(pictures)

    refused(exported(Path("silent.pt2"), Silent()), "no gradient to the picture")
    refused("none.pt2", "there is no model none.pt2")
    Path("cut.pt2").write_bytes(Path("training.pt2").read_bytes()[:5000])
    refused("cut.pt2", "not an exported program")
    torch.save(net.state_dict(), "state.pt2")
    refused("state.pt2", "not an exported program")
    assert not [record for record in caplog.records if record.levelname != "DEBUG"]


MODULE = """
import torch
from torch import nn
from blobex.decisions.source import from_callable
LIMIT = 3
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
decision = from_callable(network, "classes", ["day", "night"])
Network = nn.Sequential
class Holder:
    @staticmethod
    def score(pictures):
        return pictures.mean((2, 3)) * LIMIT
def score(pictures):
    return pictures.mean((2, 3)) * LIMIT
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "users_own.py").write_text(MODULE)
    yield "users_own"
    sys.modules.pop("users_own", None)


def test_object_of_a_python_module(user_module):
    before = list(sys.path)
    for name in ("score", "Holder.score"):
        decision = opened(f"{user_module}:{name}")
        same(decision.logits, lambda x: x.mean((2, 3)) * 3, noise(2, 32, 32))
    network = sys.modules[user_module].network
    decision = opened(f"{user_module}:network")
    assert decision.modules == (network,) and all(p.requires_grad for p in network.parameters()) and network.training
    assert opened(f"{user_module}:decision").outputs == ("day", "night")
    assert sys.path == before
    refused(f"{user_module}:Network", "is a class: make an object")
    refused(f"{user_module}:LIMIT", "is a int")
    refused(f"{user_module}:nothing", "has no nothing")
    refused("users_other:score", "cannot import users_other")
    Path("users_bad.py").write_text("1 / 0")
    refused("users_bad:score", r"cannot import users_bad \(ZeroDivisionError")


def test_card_is_enough(resnet, tmp_path):
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
    same(decision.logits, lambda x: model(by_hand(x, (20, 28), card["mean"], card["std"])), noise(2, 32, 32))
    over = opened("cards/card.yaml", kind="classes", outputs=list("vwxyz"))
    assert over.kind == "classes" and over.outputs == tuple("vwxyz")


def test_card_of_a_python_module_beside_it(user_module, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "users_own.py").rename(tmp_path / "deeper" / "users_own.py")
    (tmp_path / "deeper" / "card.yml").write_text("model: users_own:score\nkind: attributes\n")
    assert opened("deeper/card.yml").kind == "attributes"
    (tmp_path / "deeper" / "card.yml").write_text("model: users_own:decision\n")
    assert opened("deeper/card.yml").outputs == ("day", "night")
    (tmp_path / "deeper" / "card.yml").write_text("model: users_own:decision\nheight: 8\n")
    refused("deeper/card.yml", "is a Decision")


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
def test_cards_that_cannot_be(text, words):
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
    """Registered as the decision stage does it: an exported program."""
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
            same(decision.logits, net, noise(count, 16, 16))
    for reference in ("models:/net@worst", "models:/other/1", "runs:/123/net", "models:/net"):
        refused(reference, "MLflow gives no model", mlflow_loader=loader)


def test_importing_the_package_does_no_work():
    """What is heavy, MLflow above all, is imported by what needs it."""
    command = "import sys, blobex.decisions.load; print('mlflow' in sys.modules, 'pytorch_lightning' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", command], cwd=Path(__file__).parents[2], capture_output=True, check=True
    )
    assert out.stdout.split() == [b"False", b"False"]


@pytest.mark.gpu
def test_devices(resnet, tmp_path):
    """Models of files come to the device; a user's own stays, and its answers come back."""
    cuda = torch.device("cuda")
    net = network().eval()
    exported(Path("model.pt2"), net, dynamic=torch.export.Dim.DYNAMIC)
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.script(net).save("model.pt")
    pictures = noise(3, 16, 16)
    for reference in ("model.pt2", "model.pt", net):
        decision = load(reference, 16, 16, cuda, tmp_path, "rect")
        logits = decision.logits(pictures.to(cuda))
        assert logits.device.type == "cuda"
        torch.testing.assert_close(logits.cpu(), net(pictures), rtol=1e-3, atol=1e-4)
    assert next(net.parameters()).device.type == "cpu"
    decision = load(f"torchvision:resnet18:{resnet[1]}", 32, 32, cuda, tmp_path, "rect")
    assert next(decision.modules[0].parameters()).device.type == "cuda"
    assert decision.features(noise(2, 32, 32).to(cuda)).shape == (2, 512)
