"""Object-aware counterfactual explanations of image models.

from blobex import Explainer, Request

explainer = Explainer.load("rect")
explanations = explainer.explain("photo.jpg", Request(attributes=["stop"]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blobex.core.errors import BlobexError
    from blobex.explain.explainer import Explainer
    from blobex.explain.explanation import Explanation
    from blobex.explain.request import Output, Request

__version__ = "0.1.0"
__all__ = ["BlobexError", "Explainer", "Explanation", "Output", "Request", "__version__"]

_MODULES = {  # imported on first use: most of them import torch
    "BlobexError": "blobex.core.errors",
    "Explainer": "blobex.explain.explainer",
    "Explanation": "blobex.explain.explanation",
    "Output": "blobex.explain.request",
    "Request": "blobex.explain.request",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'blobex' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
