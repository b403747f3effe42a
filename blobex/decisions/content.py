"""Hash of a model by value: its weights, constants and code, and all that these refer to."""

from __future__ import annotations

import copyreg
import functools
import hashlib
import io
import itertools
import re
import site
import sys
import sysconfig
import types
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

PACKAGE = Path(__file__).parents[1]  # its code is part of the settings of every explanation
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
# Attributes of a class that do not change what its objects compute.
NO_EFFECT = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__abstractmethods__", "_abc_impl"}
NO_EFFECT |= {"__firstlineno__", "__static_attributes__", "__parameters__", "__orig_bases__"}
STATE = {"_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"}
MANGLED = re.compile(rb"___torch_mangle_\d+")  # in the names of classes that were scripted before in a process

# Kinds of objects that are what their parts are.
PARTS: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
    (list, iter),
    (set, lambda value: _sorted(value)),
    (dict | types.MappingProxyType, lambda value: itertools.chain.from_iterable(value.items())),
    (types.MethodType, lambda value: (value.__self__, value.__func__)),
    (functools.partial, lambda value: (value.func, value.args, value.keywords)),
    (functools._lru_cache_wrapper, lambda value: (value.__wrapped__,)),
    (staticmethod | classmethod, lambda value: (value.__func__,)),
    (property, lambda value: (value.fget,)),
    (functools.cached_property, lambda value: (value.func,)),
)


class Content:
    """A hash of objects by value: weights, constants, and the code of functions and classes with what it refers to.

    Of installed packages the file that defines a class or function counts, and of their objects the tensors, modules,
    functions and plain values; `strict` says that an object belongs to the user, so that all of it counts.
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._seen = dict[int, int]()
        self._kept = list[Any]()  # so that no address is used twice
        self.unknown = ""

    def hexdigest(self) -> str:
        return self._sha.hexdigest()

    def add(self, value: Any, strict: bool = True) -> None:
        """Add a value and all that it holds."""
        if isinstance(value, PLAIN):
            return self._text(f"{type(value).__name__} {value!r}")
        if isinstance(value, tuple | frozenset):  # equal ones may or may not be one object
            return self._all(value if isinstance(value, tuple) else _sorted(value), strict)
        if id(value) in self._seen:
            return self._text(f"again {self._seen[id(value)]}")
        self._seen[id(value)] = len(self._seen)
        self._kept.append(value)
        self._text(type(value).__qualname__)
        for kinds, add in self._ways:
            if isinstance(value, kinds):
                return add(self, value, strict)
        parts = next((parts for kinds, parts in PARTS if isinstance(value, kinds)), None)
        return self._all(parts(value), strict) if parts else self._object(value, strict)

    def _text(self, text: str) -> None:
        self._bytes(text.encode("utf-8", "surrogatepass"))

    def _bytes(self, data: Any) -> None:
        self._sha.update(f"{len(data)}:".encode())
        self._sha.update(data)

    def _all(self, values: Iterable[Any], strict: bool) -> None:
        for value in values:
            self.add(value, strict)
        self._text("end")

    def _tensor(self, value: Tensor, strict: bool) -> None:
        self._text(f"{value.dtype} {tuple(value.shape)}")
        try:
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            raw = dense.int_repr() if dense.is_quantized else dense
            self._bytes(raw.cpu().contiguous().flatten().view(torch.uint8).numpy())
        except (RuntimeError, TypeError, NotImplementedError):
            self._hidden(value)

    def _array(self, value: np.ndarray, strict: bool) -> None:
        self._text(f"{value.dtype} {value.shape}")
        self._all(value.flat, strict) if value.dtype.hasobject else self._bytes(value.tobytes())

    def _module(self, module: nn.Module, strict: bool) -> None:
        if "_orig_mod" in module._modules:  # of torch.compile, whose state changes with every image
            return self.add(module._modules["_orig_mod"])
        own = not _installed(type(module).__module__)
        self.add(type(module))
        attributes = list(vars(module).items())
        if isinstance(module, GraphModule):  # its code says what it does; its other attributes serve its making
            self._text(module.code)
            attributes = [(name, value) for name, value in attributes if name in STATE or isinstance(value, Tensor)]
        for name, attribute in attributes:
            if name != "training":  # all modules are in eval mode
                self._text(name)
                # Hooks are numbered in the order in which the process made them.
                hooks = name.endswith("_hooks") and isinstance(attribute, Mapping)
                self.add(list(attribute.values()) if hooks else attribute, own)
        return None

    def _script(self, script: torch.jit.ScriptModule | torch.jit.ScriptFunction, strict: bool) -> None:
        """Add the archive of a TorchScript without what serves its error messages and its serial number."""
        data: bytes = script.save_to_buffer()  # type: ignore[call-arg]  # whose argument is optional
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith((".debug_pkl", "serialization_id")):
                    self._bytes(MANGLED.sub(b"", name.encode()))
                    self._bytes(MANGLED.sub(b"", archive.read(name)))

    def _function(self, function: types.FunctionType, strict: bool) -> None:
        module = str(function.__globals__.get("__name__"))
        if _installed(module):
            self._text(f"{module} {function.__qualname__} {_file_hash(module)}")
            if hasattr(function, "__wrapped__"):  # the state of a decorator may change with every image
                return self.add(function.__wrapped__)
        else:
            self._code(function.__code__)
            self._referred(function, _names(function.__code__))
        self._all(map(_cell, function.__closure__ or ()), strict)
        self.add(function.__defaults__)
        return self.add(function.__kwdefaults__)

    def _code(self, code: types.CodeType) -> None:
        """Add what a function does, without its place in the file and its comments."""
        self._bytes(code.co_code)
        self._text(f"{code.co_flags} {code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}")
        for constant in code.co_consts:
            self._code(constant) if isinstance(constant, types.CodeType) else self.add(constant)

    def _referred(self, function: types.FunctionType, names: set[str]) -> None:
        """Add the globals that a function names, also those of modules that it imports itself."""
        package = function.__globals__.get("__package__")
        for name in sorted(names):
            if name in function.__globals__:
                self._text(name)
                self._global(function.__globals__[name], names)
            elif module := sys.modules.get(name) or sys.modules.get(f"{package}.{name}"):
                self._global(module, names)

    def _global(self, value: Any, names: set[str]) -> None:
        if not isinstance(value, types.ModuleType):
            return self.add(value)
        if not _installed(value.__name__) and id(value) not in self._seen:
            self._seen[id(value)] = len(self._seen)
            for name in sorted(names & vars(value).keys()):
                self._text(name)
                self._global(vars(value)[name], names)
            del self._seen[id(value)]  # another function may name other parts of it
        return None

    def _class(self, value: type, strict: bool) -> None:
        self._text(f"{value.__module__} {value.__qualname__}")
        if _installed(value.__module__):
            return self._text(_file_hash(value.__module__))
        self._all(value.__bases__, strict)
        for name, attribute in vars(value).items():
            if name not in NO_EFFECT and not isinstance(attribute, types.MemberDescriptorType):
                self._text(name)
                self.add(attribute)
        return None

    def _builtin(self, value: Any, strict: bool) -> None:
        self._text(f"{value.__module__} {value.__qualname__}")
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, types.ModuleType | type):
            self.add(owner, strict)

    def _object(self, value: Any, strict: bool) -> None:
        kind = type(value)
        self.add(kind)
        own = not _installed(kind.__module__) or kind.__module__.partition(".")[0] == PACKAGE.name
        if own and hasattr(value, "__dict__"):
            return self.add(vars(value))
        return self._reduced(value) if own or strict else None

    def _reduced(self, value: Any) -> None:
        """Add an object by the parts from which a copy is made."""
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            parts = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception:  # any object may refuse in its own way
            return self._hidden(value)
        if isinstance(parts, str):
            return self._text(parts)
        return self._all((list(part) if isinstance(part, Iterator) else part for part in parts), True)

    def _hidden(self, value: Any) -> None:
        self.unknown = self.unknown or f"{type(value).__module__}.{type(value).__qualname__}"

    _ways: tuple[tuple[Any, Callable[[Any, Any, bool], None]], ...] = (
        (Tensor, _tensor),
        (torch.jit.ScriptModule | torch.jit.ScriptFunction, _script),
        (nn.Module, _module),
        (np.ndarray, _array),
        (types.FunctionType, _function),
        (type, _class),
        (types.BuiltinFunctionType | types.MethodDescriptorType | types.WrapperDescriptorType, _builtin),
    )


def _sorted(value: Iterable[Any]) -> list[str]:
    """Return the elements of a set in words, whose order is another in each process."""
    return sorted(map(repr, value))


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return None


def _names(code: types.CodeType) -> set[str]:
    """Return all names that a function and the functions inside it look up."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _module_file(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).resolve() if file else None


@functools.cache
def _packages() -> tuple[Path, ...]:
    """Return the folders of Python's own and of installed packages."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(Path(path).resolve() for path in (*paths, *site.getsitepackages(), site.getusersitepackages()))


def _installed(name: str) -> bool:
    """Return whether a module is Python's, blobex's or of an installed package, rather than the user's."""
    if name in sys.builtin_module_names or name.partition(".")[0] == PACKAGE.name:
        return True
    file = _module_file(name)
    return file is not None and any(file.is_relative_to(folder) for folder in _packages())


@functools.cache
def _file_hash(name: str) -> str:
    """Return a hash of the file of an installed module; blobex's own code is identified elsewhere."""
    file = _module_file(name)
    if file is None or not file.is_file() or file.is_relative_to(PACKAGE):
        return ""
    return hashlib.sha256(file.read_bytes()).hexdigest()
