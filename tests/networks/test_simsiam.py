"""SimSiam's backbone: the features of a checkpoint of the published form are torchvision's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.transforms.functional import normalize

from blobex.core.errors import BlobexError
from blobex.networks.simsiam import load_simsiam


@pytest.fixture(scope="module")
def resnet() -> torchvision.models.ResNet:
    """A ResNet-50 with a projector, whose running statistics are not those of a new network."""
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    network.fc = torch.nn.Sequential(torch.nn.Linear(2048, 4, bias=False), torch.nn.BatchNorm1d(4))
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(0.1 * torch.rand(buffer.shape))
    return network.eval()


def save(path: Path, network: torch.nn.Module, prefix: str = "module.encoder.") -> Path:
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    state["module.predictor.0.weight"] = torch.zeros(2, 2)
    torch.save({"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}, path)
    return path


def pictures() -> Tensor:
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("prefix", ["module.encoder.", "encoder."])
def test_features_are_those_of_torchvision(prefix: str, resnet: torchvision.models.ResNet, tmp_path: Path) -> None:
    network = load_simsiam(save(tmp_path / "checkpoint_0099.pth.tar", resnet, prefix))
    x = normalize(pictures() / 2 + 0.5, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    bodies = torch.nn.Sequential(*list(resnet.children())[:-1])  # all but the projector
    with torch.no_grad():
        features, expected = network(pictures()), bodies(x).flatten(1)
    assert features.shape == (2, 2048) and features.dtype == torch.float32
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(network(pictures()[:1]), features[:1])  # batches do not matter
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_gradients_reach_the_picture(resnet: torchvision.models.ResNet, tmp_path: Path) -> None:
    network, x = load_simsiam(save(tmp_path / "file.tar", resnet)), pictures()[:1].requires_grad_()
    network(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and (x.grad != 0).any()


def test_other_files_are_refused(resnet: torchvision.models.ResNet, tmp_path: Path) -> None:
    with pytest.raises(BlobexError, match=r"none\.tar is missing: put SimSiam's ResNet-50"):
        load_simsiam(tmp_path / "none.tar")
    (tmp_path / "damaged.tar").write_bytes(b"nothing")
    with pytest.raises(BlobexError, match="is damaged"):
        load_simsiam(tmp_path / "damaged.tar")
    small = torchvision.models.resnet18(weights=None)
    for path in (save(tmp_path / "small.tar", small), save(tmp_path / "finetuned.tar", resnet, "module.")):
        with pytest.raises(BlobexError, match="is another network: put SimSiam's"):
            load_simsiam(path)
    torch.save({"model": {}}, tmp_path / "model.tar")
    with pytest.raises(BlobexError, match="is another network"):
        load_simsiam(tmp_path / "model.tar")
