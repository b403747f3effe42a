"""PyTorch files from elsewhere, opened without running any code from them.

torch's weights-only reader makes tensors and plain containers, and refuses every class that is not listed. The classes
that training programs leave beside the weights (settings, paths, NumPy numbers) are listed here by name only: in
place of each stands an inert class of ours, which is then turned into plain data. None of their packages is imported.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from blobex.core.errors import BlobexError
from blobex.core.files import check_packed


class _Foreign:
    """An object of a class that is not loaded: what the file says of it is kept, and nothing is done."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Foreign:
        foreign = super().__new__(cls)
        foreign.arguments, foreign.state = arguments, {}
        return foreign

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def plain(self, known: dict[int, Any]) -> Any:
        """The value as plain data; None where it means nothing here. `known` is that of the function `plain`."""
        return None


class _Settings(_Foreign):
    """A node of an OmegaConf tree, or an argparse.Namespace."""

    def plain(self, known: dict[int, Any]) -> Any:
        return plain(next((self.state[key] for key in ("_content", "_val") if key in self.state), self.state), known)


class _NumpyNumber(_Foreign):
    """A NumPy scalar: its type, and its bytes."""

    def plain(self, known: dict[int, Any]) -> Any:
        kind, data = self.arguments
        code, order = kind.arguments[0], kind.state[1]
        if not re.fullmatch("[biuf][1248]", code):
            return None
        return np.frombuffer(data, np.dtype(code).newbyteorder(order))[0].item()


class _Dictionary:
    """A dictionary with more to it than keys and values, which torch fills if it is a plain one."""

    def __new__(cls, *_: Any) -> Any:
        return {}


class _File:
    """A path, as text."""

    def __new__(cls, *parts: str) -> Any:
        return str(PurePosixPath(*parts))


_NAMES: Mapping[type, tuple[str, ...]] = {
    _Settings: (
        "argparse.Namespace",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "Value", "String", "Integer", "Float", "Boolean")),
        *(f"omegaconf.nodes.{kind}Node" for kind in ("Bytes", "Path", "InterpolationResult")),
    ),
    _Dictionary: (
        "collections.defaultdict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
    ),
    _File: tuple(
        f"{module}.{kind}Path"
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "PurePosix", "Windows", "PureWindows")
    ),
    _NumpyNumber: ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    _Foreign: (
        *("numpy.dtype", "numpy.ndarray", "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
        *("omegaconf.base.Metadata", "omegaconf.base.ContainerMetadata"),
        *(f"typing.{name}" for name in ("Any", "Dict", "List", "Tuple", "Optional", "Union")),
        *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "bytes", "object")),
        # Lightning before 1.5 files the state of a callback under its class.
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    ),
}


def plain(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Dictionaries, lists and leaves; what stands in for foreign objects is gone.

    What stands in several places is made plain once, and kept in `known`: else lists that hold each other could double
    at every level.
    """
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = _plain(value, known)
    return known[id(value)]


def _plain(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, _Foreign):
        return value.plain(known)
    if isinstance(value, Mapping):
        return {key: plain(item, known) for key, item in value.items() if not _is_foreign(key)}
    if isinstance(value, list | tuple):
        return [plain(item, known) for item in value]
    return None if _is_foreign(value) else value


def _is_foreign(value: Any) -> bool:
    return isinstance(value, _Foreign) or (isinstance(value, type) and value in _NAMES)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a PyTorch file holds, as plain data and tensors on the CPU; no code from it is run.

    The zip form and the form before PyTorch 1.6 are read. BlobexError: there is no such file, it needs a class that is
    not known to be harmless, it is damaged, or it holds no dictionary.
    """
    try:
        if _is_safetensors(path):
            raise BlobexError(f"{path} is a safetensors file, not a PyTorch file: give the file as it was published")
        check_packed(path)
        allowed: list[Any] = [(kind, name) for kind, names in _NAMES.items() for name in names]
        # Without a file name, torch cannot choose another format by its ending.
        with path.open("rb") as file, torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old forms, which are refused where they cannot be read
            checkpoint = plain(torch.load(file, map_location="cpu", weights_only=True))
    except BlobexError:
        raise
    except FileNotFoundError as error:
        raise BlobexError(f"there is no checkpoint {path}: check the path") from error
    except Exception as error:  # torch.load raises many kinds; each means that the file is not what it should be
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it needs {foreign[1]}, which could run code" if foreign else "it is damaged or of another format"
        raise BlobexError(f"{path} is not a safe PyTorch checkpoint ({reason}): give another file") from error
    if not isinstance(checkpoint, dict):
        raise BlobexError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint: give another file")
    return checkpoint


def form(path: Path) -> str:
    """The name of a PyTorch file's form."""
    return "PyTorch zip file" if zipfile.is_zipfile(path) else "PyTorch file of the form before 1.6"


def _is_safetensors(path: Path) -> bool:
    """A safetensors file begins with the length of its JSON header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
