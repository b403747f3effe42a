"""Checkpoints of the published BlobGAN and OCTET code, as blobex networks.

The architecture is read off the file's tensors and hyper-parameters; nothing about it is a flag.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blobex.config import Network
from blobex.errors import BlobexError
from blobex.networks.blobgan import BlobGAN
from blobex.networks.encoder import Encoder
from blobex.networks.residual import ResidualNetwork

# Published name, as a pattern, to ours. Order matters: the first that matches is taken; None drops the tensor.
GENERATOR_NAMES: tuple[tuple[str, str | None], ...] = (
    (r"noises\..*|.*\.kernel", None),
    (r"conv1\.(.*)", r"first.\1"),
    (r"to_rgb1\.(.*)", r"first_rgb.\1"),
    (r"to_rgbs\.(\d+)\.(.*)", r"rgbs.\1.\2"),
    (r"(ups|layers)\.(.*)", r"\1.\2"),
)
RESIDUAL_NAMES: tuple[tuple[str, str | None], ...] = (
    (r".*\.kernel", None),
    (r"convs\.0\.0\.weight", "from_rgb.weight"),
    (r"convs\.0\.1\.bias", "from_rgb.bias"),
    (r"blocks\.(\d+)\.conv1\.0\.weight", r"blocks.\1.conv1.weight"),
    (r"blocks\.(\d+)\.conv1\.1\.bias", r"blocks.\1.conv1.bias"),
    (r"blocks\.(\d+)\.conv2\.1\.weight", r"blocks.\1.conv2.weight"),
    (r"blocks\.(\d+)\.conv2\.2\.bias", r"blocks.\1.conv2.bias"),
    (r"blocks\.(\d+)\.skip\.1\.weight", r"blocks.\1.skip.weight"),
    (r"final_conv\.0\.weight", "final_conv.weight"),
    (r"final_conv\.1\.bias", "final_conv.bias"),
    (r"final_linear\.0\.(.*)", r"hidden.\1"),
    (r"final_linear\.1\.(.*)", r"output.\1"),
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A PyTorch file opened without running any code from it; BlobexError if it cannot be."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BlobexError(f"there is no checkpoint {path}: check the path") from error
    except Exception as error:  # torch.load raises many kinds; each means that the file is not plain tensors
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it needs {foreign[1]}, which could run code" if foreign else "it is damaged or of another format"
        raise BlobexError(f"{path} is not a safe PyTorch checkpoint ({reason}): give another file") from error
    if not isinstance(checkpoint, dict):
        raise BlobexError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint: give another file")
    return checkpoint


@contextmanager
def _published_form() -> Iterator[None]:
    """Whatever goes wrong within is the checkpoint's fault."""
    try:
        yield
    except BlobexError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
        raise BlobexError(f"the checkpoint is not of the published form ({reason}): give another file") from error


@_published_form()
def generator_from_checkpoint(checkpoint: Mapping[str, Any]) -> BlobGAN:
    """The EMA generator and layout network of a published Lightning file. `mean_w` is left at zero."""
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise BlobexError("the checkpoint has no state_dict: give a published BlobGAN Lightning file")
    generator = _strip(state, "generator_ema.")
    layout = _strip(state, "layout_net_ema.")
    if not generator or not layout:
        raise BlobexError("the checkpoint has no generator_ema and layout_net_ema: give a published BlobGAN file")
    settings = checkpoint.get("hyper_parameters", {})
    height, aspect_ratio = int(settings["resolution"]), int(settings.get("aspect_ratio", 1))
    network = _network(generator, layout, settings)
    model = BlobGAN(network, height, aspect_ratio)
    model.generator.load_state_dict(generator_state(generator))
    model.layout_network.load_state_dict(_renamed(_strip(layout, "mlp."), ((r"(\d+)\.(.*)", _one_less),)))
    return model.eval().requires_grad_(False)


def generator_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The generator's tensors under our names; the published ones carry a leading dimension of one."""
    split: dict[str, Tensor] = {}
    for name, tensor in published.items():
        match = re.fullmatch(r"convs\.(\d+)\.(.*)", name)
        if match:  # even layers upsample, odd ones follow at the same size
            index, rest = int(match[1]), match[2]
            name = f"{'layers' if index % 2 else 'ups'}.{index // 2}.{rest}"
        split[name] = tensor
    state = _renamed(split, GENERATOR_NAMES)
    inner = {
        name.replace(".modulation.", ".modulation.affine.")
        .replace(".noise.weight", ".noise_weight")
        .replace(".activate.bias", ".bias"): tensor
        for name, tensor in state.items()
    }
    return {name: tensor if "affine" in name else _shape(name, tensor) for name, tensor in inner.items()}


def _shape(name: str, tensor: Tensor) -> Tensor:
    return tensor.squeeze(0) if name.endswith("weight") and tensor.ndim == 5 else tensor.reshape(-1)


def residual_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A discriminator's or encoder's tensors under our names."""
    blocks = {
        re.sub(r"^convs\.([1-9]\d*)", lambda match: f"blocks.{int(match[1]) - 1}", name): tensor
        for name, tensor in published.items()
    }
    return _renamed(blocks, RESIDUAL_NAMES)


@_published_form()
def discriminator_from_state(published: Mapping[str, Tensor]) -> ResidualNetwork:
    """A published discriminator; its channels and aspect ratio follow from the shapes."""
    state = residual_state(published)
    channels, aspect_ratio = residual_shape(state)
    model = ResidualNetwork(channels, aspect_ratio, state["output.weight"].shape[0], standard_deviation=True)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


@_published_form()
def encoder_from_state(published: Mapping[str, Tensor], mlp_idx: int = -1) -> Encoder:
    """A published encoder with the discriminator's body; its shape follows from the tensors."""
    state = residual_state(published)
    channels, aspect_ratio = residual_shape(state)
    encoder = Encoder("stylegan", channels, max(channels), aspect_ratio, state["output.weight"].shape[0], mlp_idx)
    encoder.body.load_state_dict(state)
    return encoder.eval().requires_grad_(False)


def residual_shape(state: Mapping[str, Tensor]) -> tuple[dict[int, int], int]:
    """Channels by level height, and the aspect ratio, of a residual network's tensors."""
    count = sum(name.endswith("skip.weight") for name in state)
    widths = [state["from_rgb.weight"].shape[0], *(state[f"blocks.{i}.skip.weight"].shape[0] for i in range(count))]
    channels = {4 * 2 ** (count - index): width for index, width in enumerate(widths)}
    cells = state["hidden.weight"].shape[1] // widths[-1]
    return channels, cells // 16


def _network(generator: Mapping[str, Tensor], layout: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Network:
    layers = sum(name.endswith(".weight") for name in layout)
    first, last = layout["mlp.1.weight"], layout[f"mlp.{layers}.weight"]
    feature_dim = generator["conv1.conv.weight"].shape[2]
    style_dim = generator["conv1.conv.modulation.weight"].shape[1]
    levels = sum(name.startswith("to_rgbs.") and name.endswith(".conv.weight") for name in generator)
    height = int(settings["resolution"])
    widths = [generator["conv1.conv.weight"].shape[1]]
    widths += [generator[f"convs.{2 * level}.conv.weight"].shape[1] for level in range(levels)]
    size_in = height >> levels
    per_blob = 6 + feature_dim + style_dim
    return Network(
        blobs=(last.shape[0] - 1 - feature_dim - style_dim) // (per_blob + 1),
        size_in=size_in,
        feature_dim=feature_dim,
        style_dim=style_dim,
        z_dim=first.shape[1],
        layout_hidden=last.shape[1],
        layout_layers=layers,
        norm_features=bool(settings.get("layout_net", {}).get("norm_features", True)),
        channels={size_in << level: width for level, width in enumerate(widths)},
        discriminator_channels={},
        rectangle="legacy",
    )


def _strip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _one_less(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) - 1}.{match[2]}"


def _renamed(state: Mapping[str, Tensor], names: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        pattern, ours = next(((p, o) for p, o in names if re.fullmatch(p, name)), (None, None))
        if pattern is None:
            raise BlobexError(f"the checkpoint has an unknown tensor {name}: it is not of the published form")
        if ours is not None:
            renamed[re.sub(pattern, ours, name)] = tensor
    return renamed
