"""Safe reading of PyTorch checkpoints of other programs.

torch's weights-only reader builds tensors and plain containers and refuses all classes that are not listed. Classes
that training programs save beside the weights are replaced by inert classes: settings, paths and NumPy numbers, listed
here by name, become plain data, other subclasses of dict and list plain ones, and objects of any other class are
dropped and their classes named. Their packages are not imported and no code is run.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch

from blobex.core.errors import BlobexError
from blobex.core.files import check_packed


class _StandIn:
    """Inert class in the place of one of another program."""


class _Foreign(_StandIn):
    """Stand-in for an object: it keeps its arguments and state."""

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Foreign:
        foreign = super().__new__(cls)
        foreign.arguments, foreign.state = arguments, {}
        return foreign

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def plain(self, converted: dict[int, Any]) -> Any:
        """Convert to plain data; None if the value is not used. `converted` is that of `plain`."""
        return None


class _Settings(_Foreign):
    """A node of an OmegaConf tree, or an argparse.Namespace."""

    def plain(self, converted: dict[int, Any]) -> Any:
        value = next((self.state[key] for key in ("_content", "_val") if key in self.state), self.state)
        return plain(value, converted)


class _NumpyNumber(_Foreign):
    """A NumPy scalar: its type and its bytes."""

    def plain(self, converted: dict[int, Any]) -> Any:
        kind, data = self.arguments
        code, order = kind.arguments[0], kind.state[1]
        if not re.fullmatch("[biuf][1248]", code):
            return None
        return np.frombuffer(data, np.dtype(code).newbyteorder(order))[0].item()


class _Dictionary(_StandIn):
    """A subclass of dict, read as a plain one; only an OrderedDict may also have attributes."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _List(_StandIn):
    """A subclass of list, or a deque, read as a plain list."""

    def __new__(cls, *_: Any) -> Any:
        return []


class _File(_StandIn):
    """A path, read as text."""

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
        # Lightning before 1.5 saved the state of a callback under its class.
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    ),
}


OPAQUE = "opaque"  # module of the stand-ins of unlisted classes
MOST_CLASSES = 100  # unlisted ones in a file; each is met in a new attempt to read it
UNKNOWN = re.compile(r"GLOBAL (\S+) was not an allowed global")  # torch's messages
UNFIT = re.compile(rf"Can only (append|extend|SETITEMS?) .*but got <class '{OPAQUE}\.([^']+)'>")
PLAIN = tuple(f"builtins.{name}" for name in ("frozenset", "set", "complex", "bytearray", "slice", "range"))
# No function is ever called, but a file that asks for one of these is not to be trusted.
RUN_CODE = tuple(
    f"{module}."
    for module in (
        *("os", "posix", "nt", "sys", "subprocess", "shutil", "pty", "socket", "importlib", "runpy", "code", "codeop"),
        *("ctypes", "pickle", "_pickle", "dill", "cloudpickle", "marshal", "io", "_io", "operator", "_operator"),
        *("types", "multiprocessing", "webbrowser", "asyncio"),
        *("__builtin__", "commands", "cPickle", "popen2"),  # Python 2's names, which pickle's protocol 2 writes
        *("torch.serialization", "torch.hub", "torch.jit", "torch.utils"),
    )
)


def plain(value: Any, converted: dict[int, Any] | None = None) -> Any:
    """Convert to dictionaries, lists and leaves without stand-ins.

    `converted` holds the results by object, so that nested lists that share elements cannot grow exponentially.
    """
    converted = {} if converted is None else converted
    if id(value) in converted:
        return converted[id(value)]
    result = None if _is_foreign(value) else value
    if isinstance(value, _Foreign):
        result = value.plain(converted)
    elif isinstance(value, Mapping):
        result = {key: plain(item, converted) for key, item in value.items() if not _is_foreign(key)}
    elif isinstance(value, list | tuple):
        result = [plain(item, converted) for item in value]
    converted[id(value)] = result
    return result


def _is_foreign(value: Any) -> bool:
    return isinstance(value, _Foreign) or (isinstance(value, type) and issubclass(value, _StandIn))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a PyTorch file of any form as plain data and tensors on the CPU; BlobexError as `read_listed`."""
    return read_listed(path)[0]


def read_listed(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a PyTorch file as plain data and tensors; also return the names of the classes whose objects were dropped.

    Raises:
        BlobexError: if the file is missing or damaged, calls a function that runs programs, or holds no dictionary.
    """
    opaque = dict[str, type[_StandIn]]()
    try:
        if _is_safetensors(path):
            raise BlobexError(f"{path} is a safetensors file, not a PyTorch file: give the file as it was published")
        check_packed(path)
        # From a stream, torch cannot choose another format by the file name.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of old forms, which raise if they cannot be read
            checkpoint = plain(_load(file, opaque))
    except BlobexError:
        raise
    except FileNotFoundError as error:
        raise BlobexError(f"there is no checkpoint {path}: check the path") from error
    except Exception as error:  # torch.load raises many kinds for damaged and foreign files
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it needs {foreign[1]}, which could run code" if foreign else "it is damaged or of another format"
        raise BlobexError(f"{path} is not a safe PyTorch checkpoint ({reason}): give another file") from error
    dropped = sorted(name for name, kind in opaque.items() if issubclass(kind, _Foreign))
    if not isinstance(checkpoint, dict):
        kind = dropped[0] if checkpoint is None and dropped else type(checkpoint).__name__
        raise BlobexError(f"{path} holds a {kind}, not a checkpoint: save model.state_dict(), or give another file")
    return checkpoint, dropped


def _load(file: BinaryIO, opaque: dict[str, type[_StandIn]]) -> Any:
    """Load a checkpoint; classes that are not listed are added to `opaque` as they are met."""
    listed: list[Any] = [(kind, name) for kind, names in _NAMES.items() for name in names]
    while True:
        file.seek(0)
        try:
            with torch.serialization.safe_globals(listed + [(kind, name) for name, kind in opaque.items()]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            learnt = _stand_in(str(error))
            if learnt is None or len(opaque) == MOST_CLASSES:
                raise
            opaque[learnt[0]] = learnt[1]


def _stand_in(error: str) -> tuple[str, type[_StandIn]] | None:
    """Return the name of the class that torch's reader refused, and a stand-in; None if it refused something else."""
    if unfit := UNFIT.search(error):
        return unfit[2], _opaque(unfit[2], _List if unfit[1] in ("append", "extend") else _Dictionary)
    unknown = UNKNOWN.search(error)
    if not unknown:
        return None
    name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
    if (
        name.split(".")[0] in RUN_CODE
        or name.startswith(RUN_CODE)
        or (name.startswith("builtins.") and name not in PLAIN)
    ):
        return None
    return name, _opaque(name, _Foreign)


def _opaque(name: str, kind: type[_StandIn]) -> type[_StandIn]:
    return type(name, (kind,), {"__module__": OPAQUE})


def form(path: Path) -> str:
    """Return the name of the form of a PyTorch file."""
    return "PyTorch zip file" if zipfile.is_zipfile(path) else "PyTorch file of the form before 1.6"


def _is_safetensors(path: Path) -> bool:
    """Test for the start of a safetensors file: the length of its JSON header."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
