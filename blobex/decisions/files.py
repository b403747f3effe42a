"""Models from files: TorchScript, exported programs and Python modules."""

from __future__ import annotations

import importlib
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export.passes import move_to_device_pass

from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Decision


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


def python_object(reference: str, folder: Path) -> Decision | Callable[..., Any]:
    """Import `package.module:name`: a Decision, a module, or a function of images to logits.

    Python looks in `folder`, then in the current folder, then as usual. Raises BlobexError if there is no such object,
    its code fails, or it is a class or cannot be called.
    """
    module_name, _, name = reference.partition(":")
    with _search_first(folder, Path.cwd()):
        try:
            model: Any = importlib.import_module(module_name)
            for part in name.split("."):
                if not hasattr(model, part):
                    raise BlobexError(f"{module_name} has no {name}: check the name after the colon")
                model = getattr(model, part)
        except BlobexError:
            raise
        except (Exception, SystemExit) as error:  # the module's code may raise anything
            words = brief(f"{type(error).__name__}: {error}")
            raise BlobexError(f"cannot import {module_name} ({words}): check the name and the code") from error
    if isinstance(model, type):
        raise BlobexError(f"{reference} is a class: make an object of it in {module_name}, and name that")
    if not isinstance(model, Decision) and not callable(model):
        raise BlobexError(f"{reference} is a {type(model).__name__}: name a function, a module or a Decision")
    return model


@contextmanager
def _search_first(*folders: Path) -> Iterator[None]:
    """Put folders at the start of Python's search path for a while."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
