"""Published checkpoints: of other sizes than the golden ones, damaged, or dangerous."""

import os
import re

import pytest
import torch
from tiny_networks import TINY, random_blobgan, randomise, tiny_network

from blobex.errors import BlobexError
from blobex.networks import published
from blobex.networks.encoder import Encoder
from blobex.networks.residual import ResidualNetwork


def published_generator(model):
    """The generator's tensors as the published code would save them."""
    renamed = {}
    for name, tensor in model.generator.state_dict().items():
        block, rest = name.split(".", 1) if name.startswith("first") else re.match(r"(\w+\.\d+)\.(.*)", name).groups()
        kind, _, index = block.partition(".")
        number = int(index or 0)
        place = {
            "first": "conv1",
            "first_rgb": "to_rgb1",
            "ups": f"convs.{2 * number}",
            "layers": f"convs.{2 * number + 1}",
            "rgbs": f"to_rgbs.{number}",
        }[kind]
        if rest == "bias" and "rgb" in kind:
            tensor = tensor.view(1, 3, 1, 1)
        elif rest == "bias":
            rest = "activate.bias"
        elif rest == "conv.weight":
            tensor = tensor[None]
        rest = rest.replace("affine.", "").replace("noise_weight", "noise.weight")
        renamed[f"{place}.{rest}"] = tensor
    for index, _ in enumerate(model.generator.ups):
        renamed[f"convs.{2 * index}.conv.blur.kernel"] = torch.ones(4, 4)
        renamed[f"to_rgbs.{index}.upsample.kernel"] = torch.ones(4, 4)
    renamed["noises.noise_0"] = torch.zeros(1, 1, 4, 4)
    return renamed


def published_residual(network):
    """A discriminator's or encoder's tensors as the published code would save them."""
    places = {
        "from_rgb.weight": "convs.0.0.weight",
        "from_rgb.bias": "convs.0.1.bias",
        "final_conv.weight": "final_conv.0.weight",
        "final_conv.bias": "final_conv.1.bias",
        "hidden.weight": "final_linear.0.weight",
        "hidden.bias": "final_linear.0.bias",
        "output.weight": "final_linear.1.weight",
        "output.bias": "final_linear.1.bias",
    }
    for index, _ in enumerate(network.blocks):
        ours, theirs = f"blocks.{index}", f"convs.{index + 1}"
        places |= {
            f"{ours}.conv1.weight": f"{theirs}.conv1.0.weight",
            f"{ours}.conv1.bias": f"{theirs}.conv1.1.bias",
            f"{ours}.conv2.weight": f"{theirs}.conv2.1.weight",
            f"{ours}.conv2.bias": f"{theirs}.conv2.2.bias",
            f"{ours}.skip.weight": f"{theirs}.skip.1.weight",
        }
    renamed = {places[name]: tensor for name, tensor in network.state_dict().items()}
    return renamed | {"convs.1.conv2.0.kernel": torch.ones(4, 4), "convs.1.skip.0.kernel": torch.ones(4, 4)}


def checkpoint_of(model):
    layers = model.layout_network.state_dict()
    layout = {
        re.sub(r"layers\.(\d+)", lambda match: f"mlp.{int(match[1]) + 1}", name): tensor
        for name, tensor in layers.items()
    }
    state = {f"generator_ema.{name}": tensor for name, tensor in published_generator(model).items()}
    state |= {f"layout_net_ema.{name}": tensor for name, tensor in layout.items()}
    state |= {f"generator.{name}": torch.zeros(1) for name in published_generator(model)}  # the raw one is not wanted
    settings = {
        "resolution": model.height,
        "aspect_ratio": model.aspect_ratio,
        "layout_net": {"norm_features": model.network.norm_features},
    }
    return {"state_dict": state, "hyper_parameters": settings, "epoch": 3}


NETWORKS = [
    (tiny_network(rectangle="legacy"), 16, 2),
    (tiny_network(blobs=1, layout_layers=8, norm_features=False), 16, 1),
    (tiny_network(blobs=40, feature_dim=4, style_dim=9), 16, 1),
    (tiny_network(channels={8: 32, 16: 32, 32: 32, 64: 32}, blobs=7, rectangle="legacy"), 64, 2),  # c_model 4
    (tiny_network(channels={16: 6, 32: 5}, size_in=16, blobs=2, rectangle="legacy"), 32, 3),
    (tiny_network(channels={4: 6, 8: 6, 16: 5, 32: 4}, size_in=4, z_dim=5), 32, 1),
]


@pytest.mark.parametrize(("network", "height", "aspect_ratio"), NETWORKS)
def test_generator_of_any_size(tmp_path, network, height, aspect_ratio):
    model = random_blobgan(network, height, aspect_ratio, seed=7)
    path = tmp_path / "blobgan.ckpt"
    torch.save(checkpoint_of(model), path)
    imported = published.generator_from_checkpoint(published.read_checkpoint(path))
    z = torch.randn(2, network.z_dim, generator=torch.Generator().manual_seed(0))
    layout = model.sample(z)
    assert torch.equal(imported.sample(z).features, layout.features)
    assert torch.equal(imported.render(layout), model.render(layout))
    assert not any(parameter.requires_grad for parameter in imported.parameters())
    for name in ("blobs", "size_in", "feature_dim", "style_dim", "z_dim", "layout_hidden", "layout_layers", "channels"):
        assert getattr(imported.network, name) == getattr(network, name), name
    assert imported.network.norm_features == network.norm_features
    assert (imported.height, imported.width) == (height, height * aspect_ratio)


@pytest.mark.parametrize("aspect_ratio", [1, 2])
@pytest.mark.parametrize("channels", [{4: 8, 8: 6, 16: 4}, {4: 3, 8: 4, 16: 5, 32: 6}])
def test_discriminator_and_encoder_of_any_size(aspect_ratio, channels):
    height = max(channels)
    image = torch.randn(3, 3, height, height * aspect_ratio, generator=torch.Generator().manual_seed(0))
    discriminator = randomise(ResidualNetwork(channels, aspect_ratio, 1, standard_deviation=True))
    imported = published.discriminator_from_state(published_residual(discriminator))
    assert torch.equal(imported(image), discriminator(image))
    encoder = randomise(ResidualNetwork(channels, aspect_ratio, 11, standard_deviation=False))
    imported = published.encoder_from_state(published_residual(encoder), mlp_idx=-2)
    assert isinstance(imported, Encoder) and torch.equal(imported(image), encoder(image))
    expected = {"channels": channels, "height": height, "aspect_ratio": aspect_ratio, "w_size": 11, "mlp_idx": -2}
    assert imported.config == {"architecture": "stylegan", **expected}


@pytest.fixture
def checkpoint():
    return checkpoint_of(random_blobgan())


def without(name):
    return lambda checkpoint: checkpoint["state_dict"].pop(name)


def replaced(name, tensor):
    return lambda checkpoint: checkpoint["state_dict"].update({name: tensor})


DAMAGES = [
    (lambda checkpoint: checkpoint.pop("state_dict"), "no state_dict"),
    (lambda checkpoint: checkpoint.update(state_dict={}), "no generator_ema"),
    (lambda checkpoint: checkpoint.update(state_dict=[1]), "no state_dict"),
    (lambda checkpoint: checkpoint.pop("hyper_parameters"), "resolution"),
    (lambda checkpoint: checkpoint["hyper_parameters"].pop("resolution"), "resolution"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution="big"), "big"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution=0), "published form"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution=1), "up to 1, the height"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution=17), "up to 17, the height"),
    (lambda checkpoint: checkpoint.update(hyper_parameters=None), "published form"),
    (without("generator_ema.conv1.conv.weight"), "conv1.conv.weight"),
    (without("generator_ema.to_rgbs.0.bias"), "rgbs.0.bias"),
    (without("generator_ema.convs.1.noise.weight"), "noise_weight"),
    (without("layout_net_ema.mlp.1.weight"), "mlp.1.weight|mlp.4.weight"),
    (without("layout_net_ema.mlp.2.bias"), "layers.1.bias"),
    (replaced("generator_ema.convs.0.activate.bias", torch.zeros(99)), "size mismatch"),
    (replaced("generator_ema.convs.0.conv.weight", 3), "published form"),
    (replaced("generator_ema.spare.weight", torch.zeros(1)), "unknown tensor spare.weight"),
    (replaced("layout_net_ema.mlp.4.weight", torch.zeros(50, 12)), "published form"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=range(len(DAMAGES)))
def test_damaged_generator_is_refused_in_one_sentence(checkpoint, damage, words):
    damage(checkpoint)
    with pytest.raises(BlobexError, match=words) as caught:
        published.generator_from_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["convs.0.0.weight", "convs.1.skip.1.weight", "final_linear.0.weight"])
@pytest.mark.parametrize("load", [published.discriminator_from_state, published.encoder_from_state])
def test_damaged_residual_network_is_refused(name, load):
    state = published_residual(ResidualNetwork(TINY.discriminator_channels, 1, 1, standard_deviation=False))
    del state[name]
    with pytest.raises(BlobexError, match="published form"):
        load(state)


def test_encoder_is_no_discriminator():
    """They differ by one channel, the standard deviation."""
    state = published_residual(ResidualNetwork(TINY.discriminator_channels, 1, 1, standard_deviation=False))
    with pytest.raises(BlobexError, match="final_conv"):
        published.discriminator_from_state(state)


class Payload:
    """Runs a command where it is unpickled without care."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, checkpoint):
    proof, path = tmp_path / "executed", tmp_path / "bad.ckpt"
    checkpoint["callbacks"] = Payload(f"touch {proof}")
    torch.save(checkpoint, path)
    with pytest.raises(BlobexError, match=r"bad\.ckpt is not a safe PyTorch checkpoint") as caught:
        published.read_checkpoint(path)
    assert not proof.exists()
    assert "\n" not in str(caught.value) and "system" in str(caught.value)


def test_file_that_is_no_checkpoint(tmp_path, checkpoint):
    torch.save(checkpoint, tmp_path / "whole.ckpt")
    content = (tmp_path / "whole.ckpt").read_bytes()
    files = {"cut.ckpt": content[: len(content) // 2], "text.ckpt": b"hello there\n", "empty.ckpt": b""}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BlobexError, match=f"{name} is not a safe PyTorch checkpoint") as caught:
            published.read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(BlobexError, match="there is no checkpoint"):
        published.read_checkpoint(tmp_path / "missing.ckpt")
    with pytest.raises(BlobexError):
        published.read_checkpoint(tmp_path)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(BlobexError, match="holds a list"):
        published.read_checkpoint(tmp_path / "list.ckpt")
