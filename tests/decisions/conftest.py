"""Fixtures of the tests of decisions."""

import pytest
import torch
import torchvision


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Run each test in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """A ResNet-18 of five classes, and its state dict on disk."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None, num_classes=5)
    model(torch.randn(4, 3, 32, 32))  # running statistics other than the default
    path = tmp_path_factory.mktemp("zoo") / "weights.pth"
    torch.save(model.state_dict(), path)
    return model.eval(), path
