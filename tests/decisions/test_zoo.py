"""Models of torchvision with state dicts on disk, against the models themselves."""

import re
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from worlds.decision_models import CPU, IMAGENET, assert_same, by_hand, noise, opened, refused

from blobex.decisions.decision import output_index
from blobex.decisions.zoo import zoo_source

NUMBERS = IMAGENET.mean, IMAGENET.std


def test_torchvision_classifier(resnet):
    model, path = resnet
    decision = opened(f"torchvision:resnet18:{path}")
    assert decision.kind == "classes" and decision.outputs == ("0", "1", "2", "3", "4")
    assert_same(decision.logits, lambda x: model(by_hand(x, (224, 224), *NUMBERS)), noise(1, 32, 32))
    body = nn.Sequential(*list(model.children())[:-1], nn.Flatten())
    assert_same(decision.features, lambda x: body(by_hand(x, (224, 224), *NUMBERS)), noise(1, 32, 32))
    assert not any(p.requires_grad for p in decision.modules[0].parameters()) and not decision.modules[0].training


def test_torchvision_loading_draws_nothing_from_the_random_state(resnet):
    before = torch.get_rng_state()
    opened(f"torchvision:resnet18:{resnet[1]}")
    assert torch.equal(torch.get_rng_state(), before)


def test_torchvision_classes_have_names():
    """A model with as many classes as ImageNet has their names."""
    model = torchvision.models.squeezenet1_1(weights=None)
    path = Path("squeezenet.pth")
    torch.save(model.state_dict(), path)
    names = zoo_source(f"torchvision:squeezenet1_1:{path}", Path(), CPU).names
    assert names == tuple(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.meta["categories"])
    decision = opened(f"torchvision:squeezenet1_1:{path}")
    assert output_index(decision, "minibus") == 654


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvision_segmentation(name, tmp_path):
    """With an auxiliary head, used in training only; the card sets a small input."""
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

    assert_same(decision.logits, direct, noise(2, 32, 64))


@pytest.mark.parametrize(
    ("name", "size", "resize"),
    [("efficientnet_b0", (224, 224), "bicubic"), ("lraspp_mobilenet_v3_large", (520, 1040), "bilinear")],
)
def test_input_is_that_of_torchvisions_transforms(name, size, resize, tmp_path):
    options = {"weights_backbone": None} if name.startswith("lraspp") else {}
    torch.save(torchvision.models.get_model(name, weights=None, **options).state_dict(), tmp_path / "w.pth")
    source = zoo_source(f"torchvision:{name}:w.pth", tmp_path, CPU)
    assert source.input.size(256, 512) == size and source.input.resize == resize
    assert (source.input.mean, source.input.std) == NUMBERS


def test_googlenet_has_torchvisions_input_transform(tmp_path):
    """torchvision builds it for its weights with a second normalisation inside, and an auxiliary head."""
    torch.manual_seed(0)
    with torch.random.fork_rng():
        model = torchvision.models.googlenet(
            weights=None, num_classes=3, transform_input=True, aux_logits=True, init_weights=False
        ).eval()
    torch.save(model.state_dict(), tmp_path / "w.pth")
    source = zoo_source("torchvision:googlenet:w.pth", tmp_path, CPU)
    images = noise(1, 64, 64)
    torch.testing.assert_close(source.output(images), model(images))


def test_old_names_of_densenet(tmp_path):
    """The published file has dots where torchvision's names have none."""
    torch.manual_seed(0)
    model = torchvision.models.densenet121(weights=None, num_classes=2).eval()
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", key): value for key, value in model.state_dict().items()}
    assert old.keys() != model.state_dict().keys()
    torch.save(old, tmp_path / "w.pth")
    source = zoo_source("torchvision:densenet121:w.pth", tmp_path, CPU)
    assert torch.equal(source.output(noise(1, 32, 32)), model(noise(1, 32, 32)))


def behind(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def renamed(state, head):
    return {re.sub(r"^fc\.", f"{head}.", key): value for key, value in state.items()}


OTHERS = {"loss.weight": torch.ones(5), "metric.total": torch.zeros(())}
FORMS = {
    "nested": lambda state: {"model": state, "epoch": 3, "optimizer": {}},
    "distributed": lambda state: {"state_dict": behind("module.", state)},
    "Lightning": lambda state: {"state_dict": behind("model.", state) | OTHERS, "hyper_parameters": {"lr": 0.1}},
    "Lightning, net": lambda state: {"state_dict": behind("net.", state)},
    "compiled": lambda state: behind("_orig_mod.", state),
    "compiled, distributed": lambda state: {"model_state_dict": behind("module._orig_mod.", state)},
    "a compiled part": lambda state: {re.sub(r"^layer1\.", "layer1._orig_mod.", key): v for key, v in state.items()},
    "averaged": lambda state: {"n_averaged": torch.tensor(3), **behind("module.", state)},
    "dropout before the head": lambda state: renamed(state, "fc.1"),
    "backbone and a head of its own": lambda state: (
        renamed(behind("backbone.", state), "fc")
        | {"backbone.fc.weight": None, "backbone.fc.bias": None}
        | {"head.1.weight": state["fc.weight"], "head.1.bias": state["fc.bias"]}
    ),
    "a head in the backbone": lambda state: behind("backbone.", renamed(state, "fc.0")),
    "no counters": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
    "two copies": lambda state: {
        "state_dict": behind("model.", state) | behind("ema.", {key: value * 0 for key, value in state.items()})
    },
    "two dictionaries": lambda state: {
        "state_dict": state,
        "state_dict_ema": {key: value * 0 for key, value in state.items()},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_state_dicts(resnet, tmp_path, form):
    """Each form gives the very outputs of the module whose weights it holds."""
    model, _ = resnet
    torch.save(FORMS[form](model.state_dict()), tmp_path / "w.pth")
    source = zoo_source(f"torchvision:resnet18:{tmp_path / 'w.pth'}", Path(), CPU)
    assert torch.equal(source.output(noise()), model(noise()))


def test_safetensors(resnet, tmp_path):
    model, _ = resnet
    save_file(behind("model.", model.state_dict()), tmp_path / "w.safetensors")
    source = zoo_source("torchvision:resnet18:w.safetensors", tmp_path, CPU)
    assert torch.equal(source.output(noise()), model(noise()))


def test_head_without_bias(resnet, tmp_path):
    model, _ = resnet
    state = {key: value for key, value in renamed(model.state_dict(), "fc.1").items() if key != "fc.1.bias"}
    torch.save(state, tmp_path / "w.pth")
    source = zoo_source("torchvision:resnet18:w.pth", tmp_path, CPU)
    torch.testing.assert_close(source.output(noise()), model(noise()) - model.fc.bias)


def test_head_of_another_place_in_a_sequence(tmp_path):
    """MobileNet's own head is classifier.1 after a dropout; here it stands alone."""
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(weights=None, num_classes=3).eval()
    state = {key.replace("classifier.1.", "classifier."): value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    source = zoo_source("torchvision:mobilenet_v2:w.pth", tmp_path, CPU)
    assert torch.equal(source.output(noise()), model(noise()))


def test_refusal_names_the_first_difference(resnet, tmp_path):
    state = resnet[0].state_dict()
    changes = {
        "the file lacks layer2.0.conv1.weight": {"layer2.0.conv1.weight": None},
        "conv1.weight is 64 x 1 x 7 x 7 in the file and 64 x 3 x 7 x 7 in the model": {
            "conv1.weight": state["conv1.weight"][:, :1]
        },
        "the model has no layer1.0.se.weight": {"layer1.0.se.weight": torch.ones(2)},
        "the file lacks fc.weight": {"fc.weight": None, "a.weight": torch.ones(3, 512), "b.weight": torch.ones(3, 512)},
    }
    for words, change in changes.items():
        torch.save({"state_dict": behind("net.", state | change)}, tmp_path / "w.pth")
        refused(f"torchvision:resnet18:{tmp_path / 'w.pth'}", re.escape(f"not those of a resnet18 ({words})"))


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("sentinel"),)


def test_unsuitable_files_raise(resnet, tmp_path):
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
