"""A model that is an object of a Python module: `module:function`."""

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
    """What `package.module:name` names: a Decision, a module, or a function from pictures to logits.

    Modules are looked for in `folder`, then in the current folder, then where Python looks. BlobexError: there is none,
    its code fails, or it is a class or no callable.
    """
    module_name, _, name = reference.partition(":")
    with _first(folder, Path.cwd()):
        try:
            found: Any = importlib.import_module(module_name)
            for part in name.split("."):
                if not hasattr(found, part):
                    raise BlobexError(f"{module_name} has no {name}: check the name after the colon")
                found = getattr(found, part)
        except BlobexError:
            raise
        except (Exception, SystemExit) as error:  # whatever the module's own code raises
            words = brief(f"{type(error).__name__}: {error}")
            raise BlobexError(f"cannot import {module_name} ({words}): check the name and the code") from error
    if isinstance(found, type):
        raise BlobexError(f"{reference} is a class: make an object of it in {module_name}, and name that")
    if not isinstance(found, Decision) and not callable(found):
        raise BlobexError(f"{reference} is a {type(found).__name__}: name a function, a module or a Decision")
    return found


@contextmanager
def _first(*folders: Path) -> Iterator[None]:
    """Python looks into these folders first."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
