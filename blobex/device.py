"""Which device computes, and which of several processes writes."""

from __future__ import annotations

import os

import torch

from blobex.errors import BlobexError


def resolve_device(name: str) -> torch.device:
    """The device called auto (cuda where there is one), cpu or cuda; BlobexError if it is unknown or not there."""
    if name not in ("auto", "cpu", "cuda"):
        raise BlobexError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BlobexError("device is cuda but this machine has no CUDA device: choose auto or cpu")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")


def is_first_process() -> bool:
    """Whether this process is the one that writes files (the only one, unless training runs on several devices)."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0
