"""Models from Python code: an object of a module, or of a file."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Decision
from blobex.decisions.source import Source, source_of

T = TypeVar("T")
REFERENCE = re.compile(r"(?P<module>[A-Za-z_][\w.]*|.+\.py):(?P<name>[A-Za-z_][\w.]*)")  # package.module, or a file


def python_source(reference: str, folder: Path) -> Decision | Source:
    """Import the model of `package.module:name` or `FILE.py:name`: a Decision, a module, or a function of images.

    A file is relative to `folder`. Python looks for modules beside the file, in `folder`, in the current folder, then
    as usual; while the model runs too, so that it can import its siblings then. Raises BlobexError if there is no such
    object, its code fails, or it is a class or cannot be called.
    """
    match = REFERENCE.fullmatch(reference)
    assert match is not None
    path = folder / Path(match["module"]).expanduser() if match["module"].endswith(".py") else None
    folders = tuple(dict.fromkeys(str(place.resolve()) for place in (path.parent if path else folder, folder, Path())))
    with _search_first(folders):
        importlib.invalidate_caches()
        model = _object(reference, match["module"], match["name"], path)
    if isinstance(model, Decision):
        logits = _searching(model.logits, folders)
        return dataclasses.replace(model, logits=logits, features=_searching(model.features, folders))
    source = source_of(model, reference)
    features = source.features and _searching(source.features, folders)
    return dataclasses.replace(source, output=_searching(source.output, folders), features=features)


def _object(reference: str, module_name: str, name: str, path: Path | None) -> Any:
    try:
        model: Any = _file_module(path) if path else importlib.import_module(module_name)
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


def _file_module(path: Path) -> ModuleType:
    """Run a file as a module of a name of its own, so that files of one name in two folders are two modules."""
    if not path.is_file():
        raise BlobexError(f"there is no file {path}: check the path before the colon")
    name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None  # by its suffix
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pickle look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _searching(function: Callable[..., T], folders: tuple[str, ...]) -> Callable[..., T]:
    @wraps(function)
    def run(*args: Any) -> T:
        with _search_first(folders):
            return function(*args)

    return run


@contextmanager
def _search_first(folders: tuple[str, ...]) -> Iterator[None]:
    """Put folders at the start of Python's search path for a while."""
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            with suppress(ValueError):  # the model's code may have removed it
                sys.path.remove(folder)
