"""Which device computes, in which precision and how much at once, and which of several processes writes."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import torch

from blobex.core.errors import BlobexError

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of the settings in glibc's malloc.h
Precision = Literal["float32", "bfloat16"]
PROCESSOR_PIXELS = 2**18  # 32 pictures of 64x128: larger batches were no faster on two cores
BYTES_PER_PIXEL = 2**16  # of the GPU's memory, with room to spare


def resolve_device(name: str) -> torch.device:
    """The device called auto (cuda where there is one), cpu or cuda; BlobexError if it is unknown or not there.

    Of several processes that Lightning or torchrun started on a machine each has a GPU of its own, as far as they go.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BlobexError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BlobexError("device is cuda but this machine has no CUDA device: choose auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    place = os.environ.get("LOCAL_RANK")
    return torch.device("cuda") if place is None else torch.device("cuda", int(place) % torch.cuda.device_count())


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next use, instead of giving it back to the system and asking again.

    For glibc, whose M_TRIM_THRESHOLD and M_MMAP_MAX are set; elsewhere nothing changes. Large tensors come and go at
    every step, and the system's zeroing of new pages took a third of it (measured).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_MAX, 0)


def is_first_process() -> bool:
    """Whether this process is the one that writes files: the only one, unless Lightning or torchrun started several."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def resolve_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Return the precision called `name`; auto is bfloat16 on CUDA and on CPUs with instructions for it."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def batch_pixels(limit: int | None, device: torch.device) -> int:
    """How many pixels a search works on at once: `limit`, or what suits the device."""
    if limit is not None:
        return limit
    if device.type == "cuda":
        return max(PROCESSOR_PIXELS, torch.cuda.get_device_properties(device).total_memory // BYTES_PER_PIXEL)
    return PROCESSOR_PIXELS
