"""Safe reading of PyTorch checkpoints of other programs."""

import argparse
import collections
import datetime
import decimal
import fractions
import os
import pathlib
import pickle
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.data import AttributeDict
from safetensors.torch import save_file

from blobex.core.errors import BlobexError
from blobex.networks.checkpoint_file import form, read_checkpoint, read_listed

TENSOR = torch.arange(6.0).view(2, 3)


@pytest.fixture(params=[True, False], ids=["zip", "before 1.6"])
def save(request, tmp_path):
    """A function that writes an object to a file in one of PyTorch's two forms."""

    def write(content, name="file.ckpt"):
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=request.param)
        return path

    return write


def test_plain_content_is_unchanged(save):
    shared = torch.arange(3)
    content = {
        "state_dict": collections.OrderedDict(a=TENSOR, half=TENSOR.half(), view=shared[1:], parameter=shared),
        "epoch": 3,
        "none": None,
        "text": "ä",
        "nested": [1, 2.5, {"deep": True}],
    }
    path = save(content)
    result = read_checkpoint(path)
    assert type(result["state_dict"]) is dict
    for name, tensor in content["state_dict"].items():
        assert torch.equal(result["state_dict"][name], tensor) and result["state_dict"][name].dtype == tensor.dtype
    assert {key: value for key, value in result.items() if key != "state_dict"} == {
        key: value for key, value in content.items() if key != "state_dict"
    }


def test_form_is_named(save, request):
    zipped = "zip" in request.node.name
    assert form(save({"a": 1})) == ("PyTorch zip file" if zipped else "PyTorch file of the form before 1.6")


def test_settings_beside_the_weights(save):
    content = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.PosixPath("/tmp/a"), deeper=argparse.Namespace(mlp_idx=-2)),
        "lightning": AttributeDict(resolution=32, inner=AttributeDict(size=1)),
        "cache": collections.defaultdict(dict, a=1),
        "numbers": [np.float64(1.5), np.int32(-3), np.bool_(True), np.dtype(">i2").type(7)],
        "array": np.arange(3),
        "windows": pathlib.PureWindowsPath("a") / "b",
        "type": dict,
        "tuple": (1, torch.Size([2, 3])),
        "state": TENSOR,
    }
    result = read_checkpoint(save(content))
    assert torch.equal(result.pop("state"), TENSOR)
    assert result == {
        "args": {"lr": 0.1, "out": "/tmp/a", "deeper": {"mlp_idx": -2}},
        "lightning": {"resolution": 32, "inner": {"size": 1}},
        "cache": {"a": 1},
        "numbers": [1.5, -3, True, 7],
        "array": None,
        "windows": "a/b",
        "type": None,
        "tuple": [1, [2, 3]],
    }


def test_hydra_settings_need_no_omegaconf(save, monkeypatch):
    """The real OmegaConf writes, and cannot be imported while we read."""
    omegaconf = pytest.importorskip("omegaconf")
    tree = {
        "resolution": 32,
        "generator": {"size": "${resolution}", "channels": [1, 2.5, None, "a", True]},
        "missing": "???",
        "empty": None,
        "path": pathlib.PosixPath("/tmp/a"),
        "bytes": b"ab",
        7: {},
    }
    config = omegaconf.OmegaConf.create(tree)
    content = {"hyper_parameters": config, "part": {"generator": config.generator}, "kind": type(config), "w": TENSOR}
    path = save(content)
    for name in [name for name in sys.modules if name.partition(".")[0] == "omegaconf"]:
        monkeypatch.setitem(sys.modules, name, None)
    result = read_checkpoint(path)
    assert result["hyper_parameters"] == {**tree, "path": "/tmp/a"}
    assert result["part"] == {"generator": tree["generator"]}
    assert result["kind"] is None and torch.equal(result["w"], TENSOR)


def test_callbacks_filed_under_their_class(save, monkeypatch):
    """As Lightning did before 1.5; the module exists only while the file is written."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, module.__name__, module)
        path = save({"callbacks": {module.ModelCheckpoint: {"best_model_path": "x"}}, "state_dict": {"a": TENSOR}})
    assert read_checkpoint(path)["callbacks"] == {}


class Attributes(dict):
    """A dict whose items are also attributes, as EasyDict is."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__.update(self)


class Node(dict):
    """A dict with a state of its own, as CfgNode of yacs is."""

    def __init__(self, *args):
        super().__init__(*args)
        self.__dict__["__immutable__"] = True


@pytest.fixture
def elsewhere(monkeypatch):
    """A function that files a class under the name of a package that is not here while it is written."""

    def put(kind, name):
        module, _, kind.__name__ = name.rpartition(".")
        kind.__module__, kind.__qualname__ = module, kind.__name__
        for end in [match.start() for match in re.finditer(r"\.|$", module)]:
            monkeypatch.setitem(sys.modules, module[:end], types.ModuleType(module[:end]))
        setattr(sys.modules[module], kind.__name__, kind)
        return kind

    yield put


def test_objects_beside_the_weights_are_dropped_and_named(save, elsewhere):
    elsewhere(Attributes, "easydict.EasyDict")
    elsewhere(Node, "yacs.config.CfgNode")
    content = {
        "cfg": Attributes(lr=0.1, inner=Attributes(size=3)),
        "yacs": Node({"MODEL": Node({"NAME": "r18"})}),
        "version": torch.__version__,
        "date": datetime.datetime(2026, 5, 1, 12, 30),
        "days": [datetime.date(2026, 5, 1), datetime.timedelta(hours=2)],
        "names": frozenset(["a", "b"]),
        "ratio": fractions.Fraction(1, 3),
        "queue": collections.deque([1, 2], maxlen=5),
        "number": decimal.Decimal("1.5"),
        "optimiser": torch.optim.SGD,
        "state": TENSOR,
        datetime.date(2026, 5, 2): "a key",
    }
    result, dropped = read_listed(save(content))
    assert torch.equal(result.pop("state"), TENSOR)
    assert result == {
        "cfg": {"lr": 0.1, "inner": {"size": 3}},
        "yacs": {"MODEL": {"NAME": "r18"}},
        "version": None if "torch.torch_version.TorchVersion" in dropped else str(torch.__version__),
        "date": None,
        "days": [None, None],
        "names": None,
        "ratio": None,
        "queue": [1, 2],
        "number": None,
        "optimiser": None,
    }
    named = ["builtins.frozenset", "datetime.date", "datetime.datetime", "datetime.timedelta", "decimal.Decimal"]
    assert {*named, "fractions.Fraction", "torch.optim.sgd.SGD"} <= set(dropped)
    assert not {"easydict.EasyDict", "yacs.config.CfgNode", "collections.deque"} & set(dropped)


def test_a_whole_model_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "net.pth")
    with pytest.raises(BlobexError, match=r"holds a torch\.nn\.modules\.linear\.Linear, not a checkpoint: save model"):
        read_checkpoint(tmp_path / "net.pth")


def test_too_many_classes_are_refused(save, elsewhere):
    kinds = [elsewhere(type("Kind", (), {}), f"many.Kind{number}") for number in range(101)]
    for number, kind in enumerate(kinds):
        setattr(sys.modules["many"], f"Kind{number}", kind)
    with pytest.raises(BlobexError, match=r"it needs many\.Kind100"):
        read_checkpoint(save([kind() for kind in kinds]))


class Payload:
    """Calls a function where it is unpickled without care."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda proof: Payload(os.system, f"touch {proof}"), r"system"),
        (lambda proof: Payload(eval, f"open({str(proof)!r}, 'w')"), r"eval"),
        (lambda proof: Payload(exec, f"open({str(proof)!r}, 'w')"), r"exec"),
        (lambda proof: Payload(open, str(proof), "w"), r"open"),
        (lambda proof: Payload(subprocess.Popen, ["touch", str(proof)]), r"Popen"),
        (lambda proof: Payload(getattr, "text", "upper"), r"getattr"),
        (lambda proof: Payload(torch.load, str(proof)), r"torch\.serialization\.load"),
        (lambda proof: Payload(pathlib.Path.write_text, pathlib.PosixPath(proof), "x"), r"which could run code"),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("wrap", [lambda item: {"callbacks": item}, lambda item: argparse.Namespace(deep=[item])])
def test_code_is_refused_and_not_run(save, tmp_path, call, name, wrap):
    proof = tmp_path / "executed"
    path = save({"settings": wrap(call(proof)), "state_dict": {"a": TENSOR}}, "bad.ckpt")
    before = set(torch.serialization.get_safe_globals())  # its order is not kept
    with pytest.raises(BlobexError, match=r"bad\.ckpt is not a safe PyTorch checkpoint") as caught:
        read_checkpoint(path)
    assert not proof.exists() and "\n" not in str(caught.value)
    assert re.search(name, str(caught.value))
    assert set(torch.serialization.get_safe_globals()) == before


def test_content_that_refers_to_itself_is_refused(save):
    loop = {"state_dict": {}}
    loop["loop"] = loop
    with pytest.raises(BlobexError, match="damaged or of another format"):
        read_checkpoint(save(loop))


def test_other_files_are_refused(save, tmp_path):
    content = save({"state_dict": {"a": TENSOR}}, "whole.ckpt").read_bytes()
    numbers = pickle.dumps({"a": np.arange(3)})
    files = {"cut.ckpt": content[: len(content) // 2], "text.ckpt": b"hello there\n", "empty.ckpt": b""}
    for name, data in (files | {"pickle.ckpt": numbers, "noise.safetensors": b"abc"}).items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BlobexError, match=f"{name} is not a safe PyTorch checkpoint") as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(BlobexError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "missing.ckpt")
    with pytest.raises(BlobexError, match="not a safe PyTorch checkpoint"):
        read_checkpoint(tmp_path)
    with pytest.raises(BlobexError, match="holds a list"):
        read_checkpoint(save([1, 2]))


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_safetensors_is_named(tmp_path, name):
    save_file({"a": TENSOR}, tmp_path / name)
    with pytest.raises(BlobexError, match="is a safetensors file, not a PyTorch file"):
        read_checkpoint(tmp_path / name)


def test_file_name_does_not_matter(save):
    assert read_checkpoint(save({"a": 1}, "weights.safetensors")) == {"a": 1}
