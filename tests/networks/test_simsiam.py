"""SimSiam and S3: the projector's output by torchvision's ResNet, and the similarity that evaluate and blobex give."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from imports import ROOT
from torch import Tensor, nn
from torchvision.transforms.functional import normalize
from typer.testing import CliRunner
from worlds.tiny_world import render, scenes, tiny_explainer, tiny_params

from blobex.cli import main as cli
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array, to_float, to_tensor
from blobex.explain.request import Request
from blobex.explain.results_folder import read_results
from blobex.metrics.counterfactuals import similarity
from blobex.networks.external import FILES
from blobex.networks.simsiam import load_simsiam
from blobex.stages import evaluate


@pytest.fixture(scope="module")
def resnet() -> torchvision.models.ResNet:
    """A ResNet-50 whose classifier is SimSiam's projector; its running statistics are not those of a new network."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None, num_classes=2048)
    network.fc = nn.Sequential(
        nn.Linear(2048, 2048, bias=False),
        nn.BatchNorm1d(2048),
        nn.ReLU(),
        nn.Linear(2048, 2048, bias=False),
        nn.BatchNorm1d(2048),
        nn.ReLU(),
        network.fc,
        nn.BatchNorm1d(2048, affine=False),
    )
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.1 * torch.rand(buffer.shape))
    return network.eval()


def save(path: Path, network: nn.Module, prefix: str = "module.encoder.") -> Path:
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    state["module.predictor.0.weight"] = torch.zeros(2, 2)
    torch.save({"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory, resnet: nn.Module) -> Path:
    """A folder of external weights with SimSiam's file."""
    folder = tmp_path_factory.mktemp("external")
    save(folder / FILES["simsiam"].name, resnet)
    return folder


def images(seed: int = 1) -> Tensor:
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def projected(resnet: nn.Module, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        return resnet(normalize(pictures / 2 + 0.5, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def test_features_are_the_projectors_output(external: Path, resnet: torchvision.models.ResNet) -> None:
    state = torch.random.get_rng_state()
    network = load_simsiam(external / FILES["simsiam"].name)
    assert torch.equal(torch.random.get_rng_state(), state)
    features = network(images())
    assert features.shape == (2, 2048) and features.dtype == torch.float32
    torch.testing.assert_close(features, projected(resnet, images()), rtol=1e-4, atol=1e-5)
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
    s3 = similarity(images(), images(2), network)
    expected = torch.cosine_similarity(projected(resnet, images()), projected(resnet, images(2)))
    torch.testing.assert_close(s3, expected.double(), rtol=0, atol=1e-5)
    backbone = nn.Sequential(*list(resnet.children())[:-1])
    with torch.no_grad():
        without = torch.cosine_similarity(backbone(images()).flatten(1), backbone(images(2)).flatten(1))
    assert (s3 - without).abs().max() > 1e-3  # the projector is not dropped


def test_evaluate_compares_what_the_parameters_say(external: Path, resnet: nn.Module) -> None:
    params = load_params(ROOT / "params.yaml")
    assert evaluate._compared(params, torch.flatten) is torch.flatten  # the parser's features
    data = dataclasses.replace(params.data, similarity="simsiam", external=str(external))
    params = dataclasses.replace(params, data=data, run=dataclasses.replace(params.run, device="cpu"))
    features = evaluate._compared(params, torch.flatten)(images())
    torch.testing.assert_close(features, projected(resnet, images()), rtol=1e-4, atol=1e-5)


def test_command_measures_a_folder_of_results(external: Path, resnet: nn.Module, tmp_path: Path) -> None:
    shown = [to_array(picture) for picture in render(scenes(2))]
    tiny_explainer(tiny_params(steps=4)).explain(shown, Request(["stop"]), out=tmp_path / "out")
    options = ["--device", "cpu", "--external", str(external)]
    result = CliRunner().invoke(cli.app, ["s3", str(tmp_path / "out"), *options], catch_exceptions=False)
    printed = dict(line.split(": ") for line in result.stdout.splitlines())
    values = [
        torch.cosine_similarity(*(projected(resnet, to_float(to_tensor(each))[None]) for each in pair)).item()
        for pair in ((record.query, record.counterfactual) for record in read_results(tmp_path / "out"))
    ]
    assert float(printed["s3"]) == pytest.approx(np.mean(values), abs=1e-4) and printed["s3_count"] == "2"
    assert float(printed["s3_low"]) == pytest.approx(min(values), abs=1e-4)
    with pytest.raises(BlobexError, match=r"checkpoint_0099\.pth\.tar is missing: put SimSiam's ResNet-50"):
        CliRunner().invoke(cli.app, ["s3", str(tmp_path / "out"), "--external", str(tmp_path)], catch_exceptions=False)


def test_other_files_are_refused(resnet: torchvision.models.ResNet, tmp_path: Path) -> None:
    (tmp_path / "damaged.tar").write_bytes(b"nothing")
    with pytest.raises(BlobexError, match="is damaged"):
        load_simsiam(tmp_path / "damaged.tar")
    plain = torchvision.models.resnet50(weights=None)  # without a projector
    small = torchvision.models.resnet18(weights=None)
    torch.save({"model": {}}, tmp_path / "model.tar")
    for path in (
        save(tmp_path / "plain.tar", plain),
        save(tmp_path / "small.tar", small),
        save(tmp_path / "finetuned.tar", small, "module."),
        tmp_path / "model.tar",
    ):
        with pytest.raises(BlobexError, match="is another network: put SimSiam's"):
            load_simsiam(path)
