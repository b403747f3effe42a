"""Models saved whole in files: TorchScript and exported programs."""

from __future__ import annotations

import textwrap
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from blobex.core.errors import BlobexError


def load_script(path: Path, device: torch.device) -> nn.Module:
    """The module of a TorchScript file. BlobexError if it is missing or is none."""
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
    return still(module)


def load_program(path: Path, device: torch.device) -> nn.Module:
    """The module of a file that torch.export.save wrote. BlobexError if it is missing or is none.

    As torch says, open files of people you trust: a file can hold code that runs as it is opened.
    """
    _require(path)
    if not _is_program(path):  # torch would log a page about it
        raise BlobexError(f"{path} is not an exported program: write it with torch.export.save")
    try:
        program = torch.export.load(path)
        module = move_to_device_pass(program, device).module()
    except Exception as error:  # torch raises many kinds
        words = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise BlobexError(f"the program {path} cannot be opened ({words}): export it again") from error
    return still(module)


def still(module: nn.Module) -> nn.Module:
    """A module that is ours to change, in eval mode (an exported program has no other), asking for no gradients."""
    if not isinstance(module, torch.fx.GraphModule):
        module.eval()
    for parameter in module.parameters():  # TorchScript has no `requires_grad_` of its own
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
