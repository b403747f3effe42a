"""Saved networks: round trips and errors."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn
from worlds.tiny_networks import TINY, randomise

from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.networks.encoder import Encoder, load_encoder

CONFIG = {"channels": {8: 4, 16: 2}, "name": "tiny", "height": 16, "norm": True}


class Toy(nn.Module):
    """Parameters, a buffer, and a tensor that is not contiguous."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.conv = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.arange(3.0))


@pytest.fixture
def saved(tmp_path):
    module = randomise(Toy())
    weights.save(tmp_path / "toy", "parser", CONFIG, module)
    return tmp_path / "toy", module


def same(first, second):
    second = second.state_dict()
    return all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())


def test_round_trip(saved):
    folder, module = saved
    again = Toy()
    weights.load_state(folder, "parser", again)
    assert same(module, again)
    assert weights.read_config(folder, "parser") == CONFIG
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "weights.safetensors"]


def test_files_are_open_to_other_programs(saved):
    folder, module = saved
    tensors = load_file(folder / "weights.safetensors")
    assert set(tensors) == set(module.state_dict())
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"kind": "parser", **CONFIG}


def test_same_weights_have_the_same_bytes(saved, tmp_path):
    folder, module = saved
    weights.save(tmp_path / "again", "parser", CONFIG, module)
    for name in ("weights.safetensors", "config.yaml"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_missing_folder_says_what_to_run(tmp_path):
    with pytest.raises(BlobexError, match=r"no blobgan weights in .*`dvc repro blobgan`"):
        weights.read_config(tmp_path / "nowhere", "blobgan")
    with pytest.raises(BlobexError, match="cannot read the blobgan weights"):
        weights.load_state(tmp_path / "nowhere", "blobgan", Toy())


def test_other_kind_is_refused(saved):
    with pytest.raises(BlobexError, match="holds a parser network where a decision is needed"):
        weights.read_config(saved[0], "decision")


@pytest.mark.parametrize("text", ["", "just words", "- 1\n", "kind: [\n", "height: 16\n", "kind: 2020-99-99\n"])
def test_damaged_config_is_refused(saved, text):
    (saved[0] / "config.yaml").write_text(text)
    with pytest.raises(BlobexError, match="parser"):
        weights.read_config(saved[0], "parser")


def test_binary_config_is_refused(saved):
    (saved[0] / "config.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(BlobexError, match="no parser weights"):
        weights.read_config(saved[0], "parser")


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-10], lambda data: data[:20], lambda data: b"", lambda data: b"x" * 99]
)
def test_damaged_weights_are_refused(saved, damage):
    path = saved[0] / "weights.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BlobexError, match="cannot read the parser weights"):
        weights.load_state(saved[0], "parser", Toy())


def test_weights_of_another_shape_are_refused(saved):
    for module in (Toy(width=4), nn.Linear(3, 2)):
        with pytest.raises(BlobexError, match="do not fit their config"):
            weights.load_state(saved[0], "parser", module)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.yaml"])
def test_interrupted_saving_leaves_the_old_file_whole(saved, monkeypatch, name):
    folder, module = saved
    before = (folder / name).read_bytes()

    def dying(source: Path, target: Path) -> Path:
        if target.name == name:
            source.write_bytes(b"half")
            raise KeyboardInterrupt
        return source.rename(target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        weights.save(folder, "parser", {**CONFIG, "name": "other"}, module)
    assert (folder / name).read_bytes() == before


def encoder(architecture="stylegan"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder(architecture, TINY.discriminator_channels, 16, 2, w_size=12, mlp_idx=-2)


@pytest.mark.parametrize("architecture", ["stylegan", "resnet"])
@pytest.mark.parametrize("kind", ["encoder", "encoder_pretrain"])
def test_encoder_saved_and_loaded(tmp_path, architecture, kind):
    module = encoder(architecture)
    weights.save(tmp_path, kind, {"setup": "rect", **module.config}, module)
    again = load_encoder(tmp_path, kind)
    image = torch.randn(2, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module.eval()(image), again(image))
    assert again.config == module.config and again.mlp_idx == -2
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [({"architecture": "vit"}, "architecture is 'vit'"), ({"height": None}, "height"), ({"channels": [4]}, "channels")],
)
def test_encoder_with_a_damaged_config(tmp_path, change, words):
    module = encoder()
    weights.save(tmp_path, "encoder", {**module.config, **change}, module)
    with pytest.raises(BlobexError, match=words):
        load_encoder(tmp_path)


def test_shortened_weights_take_half_the_space_and_load_exactly(tmp_path):
    module = randomise(nn.Sequential(nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 8, 3)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    weights.save(tmp_path / "whole", "parser", {}, module)
    weights.shorten(module)
    weights.save(tmp_path / "short", "parser", {}, module)
    again = nn.Sequential(nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 8, 3))
    weights.load_state(tmp_path / "short", "parser", again)
    assert same(module, again)
    assert all(tensor.dtype != torch.float16 for tensor in again.state_dict().values())
    whole, short = ((tmp_path / name / "weights.safetensors").stat().st_size for name in ("whole", "short"))
    assert short < 0.6 * whole
    for name, tensor in module.state_dict().items():
        if tensor.numel() < weights.LARGE:
            assert torch.equal(tensor, before[name])  # biases and statistics
        else:
            assert (tensor - before[name]).abs().max() <= 2**-11 * before[name].abs().max()
            assert not torch.equal(tensor, before[name])


def test_tensor_out_of_float16_range_is_not_shortened(tmp_path):
    module = nn.Linear(64, 64)
    with torch.no_grad():
        module.weight[0, 0] = 1e5
    before = module.weight.clone()
    weights.shorten(module)
    assert torch.equal(module.weight, before)
    weights.save(tmp_path / "wide", "parser", {}, module)
    assert load_file(tmp_path / "wide" / "weights.safetensors")["weight"].dtype == torch.float32
