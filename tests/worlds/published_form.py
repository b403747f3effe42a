"""Networks of blobex in the form in which the published code saves them, and back."""

import re

import torch
from worlds.tiny_networks import tiny_network

from blobex.networks.encoder import ResidualNetwork
from blobex.networks.published_names import residual_shape, residual_state

NETWORKS = [
    (tiny_network(rectangle="legacy"), 16, 2),
    (tiny_network(blobs=1, layout_layers=8, norm_features=False), 16, 1),
    (tiny_network(blobs=40, feature_dim=4, style_dim=9), 16, 1),
    (tiny_network(channels={8: 32, 16: 32, 32: 32, 64: 32}, blobs=7, rectangle="legacy"), 64, 2),  # c_model 4
    (tiny_network(channels={16: 6, 32: 5}, size_in=16, blobs=2, rectangle="legacy"), 32, 3),
    (tiny_network(channels={4: 6, 8: 6, 16: 5, 32: 4}, size_in=4, z_dim=5), 32, 1),
]


def published_generator(model):
    """Return the tensors of the generator under their published names."""
    renamed = {}
    for name, tensor in model.generator.state_dict().items():
        block, rest = name.split(".", 1) if name.startswith("first") else re.match(r"(\w+\.\d+)\.(.*)", name).groups()
        kind, _, index = block.partition(".")
        number = int(index or 0)
        published = {
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
        renamed[f"{published}.{rest}"] = tensor
    for index, _ in enumerate(model.generator.ups):
        renamed[f"convs.{2 * index}.conv.blur.kernel"] = torch.ones(4, 4)
        renamed[f"to_rgbs.{index}.upsample.kernel"] = torch.ones(4, 4)
    renamed["noises.noise_0"] = torch.zeros(1, 1, 4, 4)
    return renamed


def published_residual(network):
    """Return the tensors of a discriminator or encoder under their published names."""
    names = {
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
        names |= {
            f"{ours}.conv1.weight": f"{theirs}.conv1.0.weight",
            f"{ours}.conv1.bias": f"{theirs}.conv1.1.bias",
            f"{ours}.conv2.weight": f"{theirs}.conv2.1.weight",
            f"{ours}.conv2.bias": f"{theirs}.conv2.2.bias",
            f"{ours}.skip.weight": f"{theirs}.skip.1.weight",
        }
    renamed = {names[name]: tensor for name, tensor in network.state_dict().items()}
    return renamed | {"convs.1.conv2.0.kernel": torch.ones(4, 4), "convs.1.skip.0.kernel": torch.ones(4, 4)}


def discriminator_from_published(published):
    state = residual_state(published)
    channels, aspect_ratio = residual_shape(state)
    network = ResidualNetwork(channels, aspect_ratio, state["output.weight"].shape[0], standard_deviation=True)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def checkpoint_of(model):
    """Return the checkpoint of a BlobGAN."""
    layers = model.layout_network.state_dict()
    layout = {
        re.sub(r"layers\.(\d+)", lambda match: f"mlp.{int(match[1]) + 1}", name): tensor
        for name, tensor in layers.items()
    }
    state = {f"generator_ema.{name}": tensor for name, tensor in published_generator(model).items()}
    state |= {f"layout_net_ema.{name}": tensor for name, tensor in layout.items()}
    state |= {f"generator.{name}": torch.zeros(1) for name in published_generator(model)}  # not used: the raw generator
    settings = {
        "resolution": model.height,
        "aspect_ratio": model.aspect_ratio,
        "layout_net": {"norm_features": model.network.norm_features},
    }
    return {"state_dict": state, "hyper_parameters": settings, "epoch": 3}


def published_decision(model, body="feat_extract.feat_extract.", holder=""):
    """Return the checkpoint of a decision model."""
    state = {name.replace("body.", body, 1): tensor for name, tensor in model.state_dict().items()}
    return {"epoch": 7, "model_state_dict": {f"{holder}{name}": tensor for name, tensor in state.items()}}
