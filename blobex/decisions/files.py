"""Models from files: TorchScript and exported programs."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from blobex.core.errors import BlobexError, brief


def load_script(path: Path, device: torch.device) -> nn.Module:
    """Load a TorchScript file; BlobexError if it is missing or another file."""
    _require(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", FutureWarning)
            module = torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise BlobexError(
            f"{path} is not a TorchScript file: write the model to a .pt2 file with torch.export.save, or give a state "
            "dict as torchvision:<model>:<file>"
        ) from error
    return freeze(module)


def load_program(path: Path, device: torch.device) -> nn.Module:
    """Load a file that torch.export.save wrote; BlobexError if it is missing or another file.

    As torch warns, such a file can hold code that runs when it is opened: open only files of people you trust.
    """
    _require(path)
    if not _is_program(path):  # torch would log a page about it
        raise BlobexError(f"{path} is not an exported program: write it with torch.export.save")
    try:
        module = move_to_device_pass(torch.export.load(path), device).module()
    except Exception as error:  # torch raises many kinds
        words = brief(f"{type(error).__name__}: {error}")
        raise BlobexError(f"the program {path} cannot be opened ({words}): export it again") from error
    return freeze(module)


def freeze(module: nn.Module) -> nn.Module:
    """Set a module to eval mode, unless it is an exported program, which has one mode, and drop its gradients."""
    if not isinstance(module, torch.fx.GraphModule):
        module.eval()
    for parameter in module.parameters():  # TorchScript has no module.requires_grad_
        parameter.requires_grad_(False)
    return module


def _require(path: Path) -> None:
    if not path.is_file():
        raise BlobexError(f"there is no model {path}: check the path")


def _is_program(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/models/model.json") for name in archive.namelist())
