"""ONNX files against the networks that were exported, and with a stand-in where the converter is not installed."""

import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from worlds.decision_models import CPU, assert_same, network, noise, opened, refused

from blobex.decisions.onnx_file import load_onnx


class Upsampler(nn.Module):
    """A segmentation whose input is three channels last."""

    def __init__(self, channels_last):
        super().__init__()
        torch.manual_seed(2)
        self.down, self.up = nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.channels_last = channels_last

    def forward(self, images):
        images = images.permute(0, 3, 1, 2) if self.channels_last else images
        return self.up(self.down(images).relu())


def exported(net, images, path="net.onnx", free=True):
    axes = {"images": {0: "n"}} if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the old one
        torch.onnx.export(net, (images,), path, dynamo=False, input_names=["images"], dynamic_axes=axes)
    return path


def small(name):
    torch.manual_seed(0)
    build = {
        "resnet18": lambda: torchvision.models.resnet18(weights=None, num_classes=3),
        "mobilenet": lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=3),
        "densenet": lambda: torchvision.models.DenseNet(4, (1, 1), 8, num_classes=3),
        "transformer": lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=3),
        "network": network,
    }
    return build[name]().eval()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet", "densenet", "transformer", "network"])
@pytest.mark.parametrize("free", [True, False], ids=["any batch", "batches of two"])
def test_outputs_and_gradients_are_those_of_the_network(name, free):
    pytest.importorskip("onnx2pytorch")
    net = small(name)
    decision = opened(exported(net, noise(2, 32, 32), free=free))
    assert decision.kind == "classes" and decision.outputs == ("0", "1", "2")
    for count in (1, 3):
        assert_same(decision.logits, net, noise(count, 32, 32))
    assert not any(parameter.requires_grad for parameter in decision.modules[0].parameters())


def test_images_get_the_size_of_the_file():
    pytest.importorskip("onnx2pytorch")
    net = small("network")
    decision = opened(exported(net, noise(1, 16, 24)))
    direct = {"size": (16, 24), "mode": "bilinear", "antialias": True}
    assert_same(decision.logits, lambda x: net(F.interpolate(x, **direct)), noise(2, 32, 32))


@pytest.mark.parametrize("channels_last", [True, False])
def test_segmentation(channels_last):
    pytest.importorskip("onnx2pytorch")
    net = Upsampler(channels_last).eval()
    images = noise(2, 32, 32).permute(0, 2, 3, 1) if channels_last else noise(2, 32, 32)
    decision = opened(exported(net, images))
    assert decision.kind == "segmentation"
    assert_same(decision.logits, Upsampler(False), noise(3, 32, 32))


class Two(nn.Module):
    def forward(self, images, more):
        return images.mean((2, 3)) + more.mean((2, 3))


def test_unsuitable_files_raise():
    pytest.importorskip("onnx2pytorch")
    refused("none.onnx", r"there is no model none\.onnx")
    Path("text.onnx").write_text("hello there, this is no model")
    refused("text.onnx", r"text\.onnx cannot be read as an ONNX file")
    exported(small("network"), noise(2, 16, 16)[:, :1].expand(-1, 3, -1, -1))
    Path("cut.onnx").write_bytes(Path("net.onnx").read_bytes()[:300])
    refused("cut.onnx", r"cut\.onnx cannot be")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Two(), (noise(), noise()), "two.onnx", dynamo=False, input_names=["a", "b"])
    refused("two.onnx", r"has the inputs a \[2, 3, 16, 32\], b .*: export a model of one batch of images")
    exported(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 12), "flat.onnx")
    refused("flat.onnx", r"has the inputs images \[None, 12\]: export a model of one batch")


def test_missing_converter_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2pytorch", None)
    Path("net.onnx").write_bytes(b"")
    refused(
        "net.onnx", r"net\.onnx needs a converter of ONNX files, which is not installed: pip install 'blobex\[onnx\]'"
    )


def stand_in(monkeypatch, network, shape, nodes=()):
    """Modules of the names of onnx and its converter: a graph of one input, and what it becomes."""
    sizes = [SimpleNamespace(dim_value=size) for size in shape]
    kind = SimpleNamespace(tensor_type=SimpleNamespace(shape=SimpleNamespace(dim=sizes)))
    graph = SimpleNamespace(
        input=[SimpleNamespace(name="images", type=kind), SimpleNamespace(name="w", type=None)],
        output=[SimpleNamespace(name="y")],
        initializer=[SimpleNamespace(name="w")],
        node=list(nodes),
    )
    onnx, converter = ModuleType("onnx"), ModuleType("onnx2pytorch")
    onnx.load = lambda path: SimpleNamespace(graph=graph)
    converter.ConvertModel = lambda model, experimental: network
    monkeypatch.setitem(sys.modules, "onnx", onnx)
    monkeypatch.setitem(sys.modules, "onnx2pytorch", converter)
    Path("net.onnx").write_bytes(b"")
    return graph


def node(kind, inputs, output, **attributes):
    items = [SimpleNamespace(name=name, i=value) for name, value in attributes.items()]
    return SimpleNamespace(op_type=kind, input=list(inputs), output=[output], attribute=items)


def test_stand_in_network(monkeypatch):
    net = network()
    stand_in(monkeypatch, net, (0, 3, 16, 24))
    loaded = load_onnx(Path("net.onnx"), CPU)
    assert loaded.shape == (None, 3, 16, 24) and not net.training
    decision = opened("net.onnx")
    direct = {"size": (16, 24), "mode": "bilinear", "antialias": True}
    assert_same(decision.logits, lambda x: net(F.interpolate(x, **direct)), noise(3, 32, 32))


def test_copies_and_modes_are_removed(monkeypatch):
    nodes = [
        node("Identity", ["w"], "copy"),
        node("Identity", ["copy"], "again"),
        node("BatchNormalization", ["images", "again"], "z", epsilon=1, training_mode=0),
        node("Identity", ["z"], "y"),
    ]
    graph = stand_in(monkeypatch, network(), (1, 3, 16, 16), nodes)
    load_onnx(Path("net.onnx"), CPU)
    norm, last = graph.node
    assert norm.input == ["images", "w"] and [item.name for item in norm.attribute] == ["epsilon"]
    assert last.op_type == "Identity" and last.input == ["z"]
    graph.node[:] = [node("BatchNormalization", ["images"], "y", training_mode=1)]
    refused("net.onnx", r"net\.onnx was exported in training mode: export it again after eval\(\)")


def test_operation_that_the_converter_lacks(monkeypatch):
    stand_in(monkeypatch, None, (1, 3, 16, 16))

    def fail(model, experimental):
        raise NotImplementedError("Conversion not implemented for op_type=Foo.")

    sys.modules["onnx2pytorch"].ConvertModel = fail
    refused(
        "net.onnx", r"cannot be converted \(NotImplementedError: .*Foo.*: export the model with torch\.export\.save"
    )
