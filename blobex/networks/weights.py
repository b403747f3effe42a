"""Weights on disk: a folder with weights.safetensors and config.yaml (what the network is, and for which pictures).

A tensor is stored in float16 where that loses nothing, as it does not after `shorten`, and else as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blobex.errors import BlobexError
from blobex.files import whole_file

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
LARGE = 4096  # numbers from which on a tensor is worth shortening


def shorten(module: nn.Module) -> None:
    """Round the large tensors of a trained network to float16's precision, in place, so that its file is half as long.

    They stay float32. Small ones (biases, statistics, scales) are not rounded, nor what float16 cannot reach.
    """
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.dtype == torch.float32 and tensor.numel() >= LARGE:
                rounded = tensor.half().float()
                if rounded.isfinite().all():
                    tensor.copy_(rounded)


def save(folder: Path, kind: str, config: Mapping[str, Any], module: nn.Module) -> None:
    """Write a network's weights and config. `kind` is its stage's name; the config is plain YAML data."""
    tensors = {name: _stored(tensor.detach().cpu().contiguous()) for name, tensor in module.state_dict().items()}
    with whole_file(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # safetensors lets nobody else read it
    with whole_file(folder / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump({"kind": kind, **config}, sort_keys=False), encoding="utf-8")


def _stored(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.numel() < LARGE:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """The config of a saved network; BlobexError if there is none or it is of another kind."""
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: other bytes than text, or no such date
        raise BlobexError(f"no {kind} weights in {folder}: run `dvc repro {kind}` or `dvc pull` first") from error
    found = config.get("kind") if isinstance(config, dict) else None
    if found != kind:
        raise BlobexError(
            f"{folder} holds a {found or 'damaged'} network where a {kind} is needed: give another folder"
        )
    return {key: value for key, value in config.items() if key != "kind"}


def load_state(folder: Path, kind: str, module: nn.Module) -> None:
    """Fill `module` from the folder's weights; BlobexError if they are missing, damaged or of another shape."""
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BlobexError(f"cannot read the {kind} weights in {folder}: run `dvc repro {kind}` again") from error
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise BlobexError(f"the weights in {folder} do not fit their config: run `dvc repro {kind}` again") from error
