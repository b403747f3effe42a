"""A public classifier in each form that people have it in: one command explains it."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional as F
from worlds.decision_models import by_hand
from worlds.tiny_models import save_models, smooth_images

from blobex.cli import main as cli
from blobex.datasets.images import load_image, to_array, to_float, to_tensor

SHAPE = (2, 3, 32, 64)
MINE = """
import copy
import warnings
from types import SimpleNamespace
import torch
from torch import nn
from users_classifier import net

class Timm(nn.Module):
    pretrained_cfg = {"input_size": (3, 40, 40), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    def __init__(self):
        super().__init__()
        self.body = net
    def forward(self, images):
        return self.body(images)

class Transformers(nn.Module):
    config = SimpleNamespace(image_size=48, id2label={0: "day", 1: "dusk", 2: "night"})
    def __init__(self):
        super().__init__()
        self.body = net
    def forward(self, pixel_values, labels=None):
        return SimpleNamespace(loss=None, logits=self.body(pixel_values))

timm, transformers, half = Timm(), Transformers(), copy.deepcopy(net).half()
warnings.simplefilter("ignore")  # quantisation moves to another package
quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {nn.Linear}, torch.qint8)
"""
CLASSIFIER = """
import torch, torchvision
net = torchvision.models.resnet18(num_classes=3).eval()
net.load_state_dict(torch.load("weights.pth"))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, nn.Module]]:
    """A folder with networks, a photo and a ResNet-18 of three classes in all forms; and the ResNet."""
    folder = save_models(tmp_path_factory.mktemp("forms"))
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None, num_classes=3)
    with torch.no_grad():
        net(torch.randn(8, 3, 32, 32))  # running statistics other than the default
        net.fc.weight.mul_(3)
    net.eval().requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of exporters that are the old ones
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        Image.fromarray(to_array(smooth_images(1)[0])).save("photo.png")
        torch.save(net.state_dict(), "weights.pth")
        torch.jit.trace(net, torch.zeros(SHAPE)).save("net.pt")
        batch = torch.export.Dim("batch", min=1, max=64)
        torch.export.save(torch.export.export(net, (torch.zeros(SHAPE),), dynamic_shapes=({0: batch},)), "net.pt2")
        Path("users_classifier.py").write_text(CLASSIFIER)
        Path("mine.py").write_text(MINE)
        yield folder, net
    sys.modules.pop("users_classifier", None)


def explain(project: Path, decision: str, monkeypatch: pytest.MonkeyPatch) -> int:
    out = project / "out" / decision.replace(":", "_")
    line = ["explain", "photo.png", "--out", str(out), "--decision", decision, "--steps", "1", "--device", "cpu"]
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["blobex", *line])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


FORMS = {  # size, mean and std of the input, names, and tolerance
    "mine.py:timm": SimpleNamespace(size=(40, 40), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)),
    "mine.py:transformers": SimpleNamespace(size=(48, 48), names=("day", "dusk", "night")),
    "mine.py:half": SimpleNamespace(near=2e-2),
    "net.onnx": SimpleNamespace(),
    "net.pt": SimpleNamespace(),
    "net.pt2": SimpleNamespace(),
    "torchvision:resnet18:weights.pth": SimpleNamespace(  # as torchvision's own weights have it
        size=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("decision", FORMS)
def test_one_command_explains(project, decision: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The score in the answer is that of the ResNet itself, called on the photo as its form asks."""
    folder, net = project
    if decision == "net.onnx":
        pytest.importorskip("onnx2pytorch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(net, (torch.zeros(SHAPE),), folder / "net.onnx", dynamo=False)
    assert explain(folder, decision, monkeypatch) == 0, capsys.readouterr().err
    (file,) = (folder / "out" / decision.replace(":", "_")).rglob("record.json")
    (record,) = json.loads(file.read_text())["explanations"]
    form = FORMS[decision]
    image, half = to_float(to_tensor(load_image(folder / "photo.png")))[None], (0.5, 0.5, 0.5)
    size = getattr(form, "size", (32, 64))
    chances = F.softmax(net(by_hand(image, size, getattr(form, "mean", half), getattr(form, "std", half))), 1)[0]
    near = getattr(form, "near", 1e-4)
    torch.testing.assert_close(torch.tensor(record["scores_before"]), chances, rtol=0, atol=near)
    runner_up = chances.argsort()[-2]
    assert record["score_before"] == pytest.approx(chances[runner_up].item(), abs=near)
    names = getattr(form, "names", ("0", "1", "2"))
    assert (record["from_class"], record["to_class"]) == (names[chances.argmax()], names[runner_up])


@pytest.mark.slow
def test_quantised_classifier_is_refused_in_one_sentence(project, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    folder, _ = project
    assert explain(folder, "mine.py:quantised", monkeypatch) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("blobex: ")]
    assert len(lines) == 1 and "gradient" in lines[0]
    assert not (folder / "out" / "mine.py_quantised").exists()
