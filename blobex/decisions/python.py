"""Models that are objects of a Python module: `module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Decision


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
