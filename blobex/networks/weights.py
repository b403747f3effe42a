"""Saved networks: a folder with weights.safetensors and config.yaml (kind, architecture, image size).

A tensor is stored in float16 if that loses nothing, as after `shorten`, and else as it is.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
from blobex.core.files import check_packed, whole_file, write_text

Module = TypeVar("Module", bound=nn.Module)
WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
LARGE = 4096  # number of entries from which a tensor is shortened


def shorten(module: nn.Module) -> None:
    """Round the large tensors of a trained network to float16 precision in place, which halves its file.

    They stay float32. Small tensors (biases, statistics, scales) and tensors out of float16's range are not rounded.
    """
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.dtype == torch.float32 and tensor.numel() >= LARGE:
                rounded = tensor.half().float()
                if rounded.isfinite().all():
                    tensor.copy_(rounded)


def save(folder: Path, kind: str, config: Mapping[str, Any], module: nn.Module) -> None:
    """Save the weights and the config, plain YAML data, of a network. `kind` is the name of its stage."""
    tensors = {name: _stored(tensor.detach().cpu().contiguous()) for name, tensor in module.state_dict().items()}
    with whole_file(folder / WEIGHTS) as temporary:
        temporary.write_bytes(to_bytes(tensors))  # safetensors' own writer makes files that only the user can read
    write_text(folder / CONFIG, yaml.safe_dump({"kind": kind, **config}, sort_keys=False))


def _stored(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.numel() < LARGE:
        return tensor
    half = tensor.half()
    return half if torch.equal(half.float(), tensor) else tensor


def is_kind(folder: Path, kind: str) -> bool:
    """Return whether a folder holds a saved network of a kind; False if its config cannot be read."""
    with suppress(OSError, ValueError):
        config = read_yaml(folder / CONFIG)
        return isinstance(config, dict) and config.get("kind") == kind
    return False


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """Read the config of a saved network, without its kind; BlobexError if there is none or it is of another kind."""
    try:
        config = read_yaml(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise BlobexError(f"no {kind} weights in {folder}: run `dvc repro {kind}` or `dvc pull` first") from error
    saved = config.get("kind") if isinstance(config, dict) else None
    if saved != kind:
        name = saved if saved and isinstance(saved, str) else "damaged"
        raise BlobexError(f"{folder} holds a {name} network where a {kind} is needed: give another folder")
    return {key: value for key, value in config.items() if key != "kind"}


def load_network(
    folder: Path,
    kind: str,
    saved: type[Any],
    build: Callable[..., Module],
    defaults: Mapping[str, Any] | None = None,
) -> Module:
    """Load a saved network, frozen.

    Args:
        folder: Folder of the network.
        kind: Name of the stage that trains it.
        saved: Dataclass of the keys of config.yaml, which are the arguments of `build`.
        build: Class of the network.
        defaults: Values of keys that older configs lack.

    Raises:
        BlobexError: if files are missing, damaged or do not agree.
    """
    config = {**(defaults or {}), **read_config(folder, kind)}
    with config_errors(folder, kind):
        arguments = parse(saved, {field.name: config.get(field.name) for field in dataclasses.fields(saved)})
        module = build(**dataclasses.asdict(arguments))
    load_state(folder, kind, module)
    return module.eval().requires_grad_(False)


@contextmanager
def config_errors(folder: Path, kind: str) -> Iterator[None]:
    """Name the folder's config in a BlobexError raised within."""
    try:
        yield
    except BlobexError as error:
        raise BlobexError(f"{folder / CONFIG}: {error}; or run `dvc repro {kind}` again") from error


def load_state(folder: Path, kind: str, module: nn.Module) -> None:
    """Load the folder's weights into a module; BlobexError if they are missing, damaged, not finite or do not fit."""
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


def load_tensors(path: Path, mapped: bool = False) -> Any:
    """Load tensors and plain containers; with `mapped`, tensors are read when they are used.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged or holds anything else.
    """
    check_packed(path)
    try:
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many kinds for damaged and foreign files
        raise ValueError("it is damaged, or holds more than tensors") from error


def save_tensors(path: Path, content: Any) -> None:
    """Save tensors and plain containers; raise OSError, where torch.save hides the reason, such as a full disk."""
    stream = io.BytesIO()
    torch.save(content, stream)
    path.write_bytes(stream.getbuffer())
