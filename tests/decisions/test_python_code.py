"""Models of Python modules and files, and the modules that they import, from any place."""

import sys
from pathlib import Path

import pytest
from worlds.decision_models import assert_same, noise, opened, refused

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
    def score(images):
        return images.mean((2, 3)) * LIMIT
def score(images):
    return images.mean((2, 3)) * LIMIT
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
        assert_same(decision.logits, lambda x: x.mean((2, 3)) * 3, noise(2, 32, 32))
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


def test_card_of_a_python_module_beside_it(user_module, tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "users_own.py").rename(tmp_path / "deeper" / "users_own.py")
    (tmp_path / "deeper" / "card.yml").write_text("model: users_own:score\nkind: attributes\n")
    assert opened("deeper/card.yml").kind == "attributes"
    (tmp_path / "deeper" / "card.yml").write_text("model: users_own:decision\n")
    assert opened("deeper/card.yml").outputs == ("day", "night")
    (tmp_path / "deeper" / "card.yml").write_text("model: users_own:decision\nheight: 8\n")
    refused("deeper/card.yml", "is a Decision")


USER = """
from torch import nn
import scale_of_{n}

class Net(nn.Module):
    def forward(self, images):
        import late_of_{n}
        return images.mean((2, 3)) * scale_of_{n}.SCALE + late_of_{n}.shift(images)

    def features(self, images):
        import late_of_{n}
        return images.mean((2, 3))[:, :2] + late_of_{n}.shift(images)

net = Net()
"""
LATE = """
def shift(images):
    return {n}
"""


def user_folder(folder, n):
    """A module that imports one sibling at its top and one inside forward."""
    folder.mkdir()
    (folder / "users_net.py").write_text(USER.format(n=n))
    (folder / f"scale_of_{n}.py").write_text(f"SCALE = {n}")
    (folder / f"late_of_{n}.py").write_text(LATE.format(n=n))
    return folder


@pytest.fixture
def forgotten():
    """Forget modules that a test imported."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("users_net", "scale_of", "late_of")):
            del sys.modules[name]


@pytest.mark.parametrize("model", ["users_net:net", "users_net.py:net"])
def test_card_whose_module_imports_siblings(tmp_path, monkeypatch, forgotten, model):
    """The sibling inside forward is imported at the first image, when the current folder is another."""
    folder = user_folder(tmp_path / "cards", 3)
    (folder / "card.yaml").write_text(f"model: {model}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = list(sys.path)
    decision = opened(folder / "card.yaml")
    sys.modules.pop("late_of_3")
    assert_same(decision.logits, lambda x: x.mean((2, 3)) * 3 + 3, noise())
    sys.modules.pop("late_of_3")
    assert_same(decision.features, lambda x: x.mean((2, 3))[:, :2] + 3, noise())
    assert sys.path == before


def test_function_of_a_file_anywhere(tmp_path, monkeypatch, forgotten):
    """Files of one name in two folders are two models."""
    first, second = (user_folder(tmp_path / name, n) for name, n in (("a", 2), ("b folder", 5)))
    decisions = [opened(f"{folder / 'users_net.py'}:net") for folder in (first, second)]
    monkeypatch.chdir(first)
    for decision, n in zip(decisions, (2, 5), strict=True):
        assert_same(decision.logits, lambda x, n=n: x.mean((2, 3)) * n + n, noise())
    assert_same(opened("users_net.py:net").logits, decisions[0].logits, noise())
    assert_same(opened("../a/users_net.py:net").logits, decisions[0].logits, noise())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_same(opened("~/a/users_net.py:net").logits, decisions[0].logits, noise())


def test_unsuitable_files_raise(tmp_path):
    (tmp_path / "bad.py").write_text("import torch\n1 / 0")
    before = set(sys.modules)
    refused("bad.py:net", r"cannot import bad\.py \(ZeroDivisionError")
    assert not [name for name in sys.modules.keys() - before if name.startswith("bad_")]
    refused("none.py:net", r"there is no file none\.py: check the path before the colon")
    (tmp_path / "empty.py").write_text("net = 3\nkind = dict")
    refused("empty.py:model", r"empty\.py has no model")
    refused("empty.py:net", "is a int")
    refused("empty.py:kind", r"is a class: make an object of it in empty\.py")
