"""Conversion of the tensor names of published BlobGAN and OCTET checkpoints to blobex's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

# Patterns of published names and the names in blobex. The first match is used; None drops the tensor.
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
DECISION_NAMES: tuple[tuple[str, str | None], ...] = (
    (r"explainer\.(?:weight|bias)", None),  # of 21 reasons, from the features and the actions
    (r"classifier\.(?:\d+\.)?(weight|bias)", r"classifier.\1"),
    (r"\w*reason\w*\.(?:\d+\.)?(weight|bias)", r"reasons.\1"),
    # torchvision's first DenseNets had names such as denselayer1.norm.1.weight.
    (r"body\.(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"body.\1\2"),
    (r"body\.(.*)", r"body.\1"),
)


def generator_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a generator and remove the published leading dimensions of one."""
    split: dict[str, Tensor] = {}
    for name, tensor in published.items():
        match = re.fullmatch(r"convs\.(\d+)\.(.*)", name)
        if match:  # even layers upsample, odd layers follow at the same size
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


def layout_state(published: Mapping[str, Tensor], multiplier: float) -> dict[str, Tensor]:
    """Rename the tensors of a layout network.

    `multiplier` is the published learning-rate multiplier divided by that of blobex; both are factors of the weights.
    """
    state = _renamed(strip(published, "mlp."), ((r"(\d+)\.(.*)", _one_less),))
    return state if multiplier == 1 else {name: tensor * multiplier for name, tensor in state.items()}


def residual_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a discriminator or encoder."""
    blocks = {
        re.sub(r"^convs\.([1-9]\d*)", lambda match: f"blocks.{int(match[1]) - 1}", name): tensor
        for name, tensor in published.items()
    }
    return _renamed(blocks, RESIDUAL_NAMES)


def residual_shape(state: Mapping[str, Tensor]) -> tuple[dict[int, int], int]:
    """Return the channels by level height and the aspect ratio of a residual network; BlobexError for a fraction."""
    count = sum(name.endswith("skip.weight") for name in state)
    widths = [state["from_rgb.weight"].shape[0], *(state[f"blocks.{i}.skip.weight"].shape[0] for i in range(count))]
    channels = {4 * 2 ** (count - index): width for index, width in enumerate(widths)}
    aspect_ratio = state["hidden.weight"].shape[1] / (16 * widths[-1])
    if aspect_ratio != int(aspect_ratio):
        raise BlobexError(f"its aspect_ratio is {aspect_ratio:g}: blobex needs a whole number, give another file")
    return channels, int(aspect_ratio)


def decision_state(published: Mapping[str, Tensor], body: str) -> dict[str, Tensor]:
    """Rename the tensors of a decision model, whose DenseNet's names begin with `body`.

    The rows of a separate classifier of reasons are appended to those of the classifier of actions.
    """
    named = {}
    for name, tensor in published.items():
        of_body = name.startswith(body) and not re.match(r"classifier|\w*reason|explainer\.", name)
        named[f"body.{name.removeprefix(body)}" if of_body else name] = tensor
    state = _renamed(named, DECISION_NAMES)
    for part in ("weight", "bias"):
        reasons = state.pop(f"reasons.{part}", None)
        if reasons is not None:
            state[f"classifier.{part}"] = torch.cat([state[f"classifier.{part}"], reasons])
    return state


def strip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if str(name).startswith(prefix)}


def _one_less(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) - 1}.{match[2]}"


def _renamed(state: Mapping[str, Tensor], names: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        pattern, replacement = next(((old, new) for old, new in names if re.fullmatch(old, name)), (None, None))
        if pattern is None:
            raise BlobexError(f"the checkpoint has an unknown tensor {name}: it is not of the published form")
        if replacement is None:
            continue
        new_name = re.sub(pattern, replacement, name)
        if new_name in renamed:
            raise BlobexError(f"the checkpoint has two tensors for {new_name}: it is not of the published form")
        renamed[new_name] = tensor
    return renamed
