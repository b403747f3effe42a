"""Weights on disk: a folder with weights.safetensors and config.yaml (what the network is, and for which pictures).

A tensor is stored in float16 where that loses nothing, as it does not after `shorten`, and else as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from blobex.config.read import parse, read_yaml
from blobex.core.errors import BlobexError
from blobex.core.files import whole_file

T = TypeVar("T")
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
        temporary.write_bytes(to_bytes(tensors))  # safetensors' own writing would let nobody else read it
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
        config = read_yaml(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise BlobexError(f"no {kind} weights in {folder}: run `dvc repro {kind}` or `dvc pull` first") from error
    found = config.get("kind") if isinstance(config, dict) else None
    if found != kind:
        known = found if found and isinstance(found, str) else "damaged"
        raise BlobexError(f"{folder} holds a {known} network where a {kind} is needed: give another folder")
    return {key: value for key, value in config.items() if key != "kind"}


def read_saved(folder: Path, kind: str, saved: type[T], **older: Any) -> T:
    """What the config of a saved network says, as the dataclass `saved` of the network's arguments.

    `older` are the values of keys that older configs lack. BlobexError names a key that is missing or out of range.
    """
    config = {**older, **read_config(folder, kind)}
    with config_errors(folder, kind):
        return parse(saved, {field.name: config.get(field.name) for field in dataclasses.fields(saved)})  # type: ignore[arg-type]


@contextmanager
def config_errors(folder: Path, kind: str) -> Iterator[None]:
    """An error within is that of the folder's config."""
    try:
        yield
    except BlobexError as error:
        raise BlobexError(f"{folder / CONFIG}: {error}; or run `dvc repro {kind}` again") from error


def load_state(folder: Path, kind: str, module: nn.Module) -> None:
    """Fill `module` from the folder's weights; BlobexError if they are missing, damaged or of another shape.

    Weights that are not finite are damaged: all that is made of them would be nonsense.
    """
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BlobexError(f"cannot read the {kind} weights in {folder}: run `dvc repro {kind}` again") from error
    broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise BlobexError(f"the weights in {folder} are not finite ({broken}): run `dvc repro {kind}` again")
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise BlobexError(f"the weights in {folder} do not fit their config: run `dvc repro {kind}` again") from error
