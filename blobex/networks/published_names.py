"""Tensors of the published BlobGAN and OCTET checkpoints under blobex's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from blobex.core.errors import BlobexError

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
DECISION_NAMES: tuple[tuple[str, str | None], ...] = (
    (r"classifier\.(?:\d+\.)?(weight|bias)", r"classifier.\1"),
    (r"\w*reason\w*\.(?:\d+\.)?(weight|bias)", r"reasons.\1"),
    # torchvision's first DenseNets had a dot more: denselayer1.norm.1.weight.
    (r"body\.(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)", r"body.\1\2"),
    (r"body\.(.*)", r"body.\1"),
)


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


def layout_state(published: Mapping[str, Tensor], multiplier: float) -> dict[str, Tensor]:
    """The layout network's tensors under our names.

    `multiplier` is the published learning-rate multiplier over ours: both are factors of the weights in use.
    """
    state = _renamed(strip(published, "mlp."), ((r"(\d+)\.(.*)", _one_less),))
    return state if multiplier == 1 else {name: tensor * multiplier for name, tensor in state.items()}


def residual_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A discriminator's or encoder's tensors under our names."""
    blocks = {
        re.sub(r"^convs\.([1-9]\d*)", lambda match: f"blocks.{int(match[1]) - 1}", name): tensor
        for name, tensor in published.items()
    }
    return _renamed(blocks, RESIDUAL_NAMES)


def residual_shape(state: Mapping[str, Tensor]) -> tuple[dict[int, int], int]:
    """Channels by level height, and the aspect ratio, of a residual network's tensors."""
    count = sum(name.endswith("skip.weight") for name in state)
    widths = [state["from_rgb.weight"].shape[0], *(state[f"blocks.{i}.skip.weight"].shape[0] for i in range(count))]
    channels = {4 * 2 ** (count - index): width for index, width in enumerate(widths)}
    cells = state["hidden.weight"].shape[1] // widths[-1]
    return channels, cells // 16


def decision_state(published: Mapping[str, Tensor], body: str) -> dict[str, Tensor]:
    """A decision model's tensors under our names; those of its DenseNet begin with `body`.

    The rows of a classifier for reasons follow those of the classifier for actions.
    """
    named = {}
    for name, tensor in published.items():
        of_body = name.startswith(body) and not re.match(r"classifier|\w*reason", name)
        named[f"body.{name.removeprefix(body)}" if of_body else name] = tensor
    state = _renamed(named, DECISION_NAMES)
    for part in ("weight", "bias"):
        reasons = state.pop(f"reasons.{part}", None)
        if reasons is not None:
            state[f"classifier.{part}"] = torch.cat([state[f"classifier.{part}"], reasons])
    return state


def strip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, which is taken off."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if str(name).startswith(prefix)}


def _one_less(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) - 1}.{match[2]}"


def _renamed(state: Mapping[str, Tensor], names: Iterable[tuple[str, Any]]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        pattern, ours = next(((p, o) for p, o in names if re.fullmatch(p, name)), (None, None))
        if pattern is None:
            raise BlobexError(f"the checkpoint has an unknown tensor {name}: it is not of the published form")
        if ours is None:
            continue
        place = re.sub(pattern, ours, name)
        if place in renamed:
            raise BlobexError(f"the checkpoint has more than one tensor for {place}: it is not of the published form")
        renamed[place] = tensor
    return renamed
