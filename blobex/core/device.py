"""Devices, precisions and batch sizes that suit them."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Literal

import torch

from blobex.core.errors import BlobexError

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX in glibc's malloc.h
Precision = Literal["float32", "bfloat16"]
CPU_PIXELS = 2**18  # 32 images of 64x128: larger batches were no faster on two cores
BYTES_PER_PIXEL = 2**16  # of GPU memory, with a margin


def resolve_device(name: str) -> torch.device:
    """Return the device named auto (cuda if available), cpu or cuda.

    Processes that Lightning or torchrun started on one machine are spread over its GPUs.

    Raises:
        BlobexError: if the name is unknown or the device is not available.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise BlobexError(f"unknown device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BlobexError("device is cuda but this machine has no CUDA device: choose auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda") if rank is None else torch.device("cuda", int(rank) % torch.cuda.device_count())


def keep_freed_memory() -> None:
    """Let this process reuse freed memory instead of returning it to the system; for glibc only.

    Large tensors are allocated and freed at every step, of which zeroing new pages took a third (measured).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_MAX, 0)


def is_first_process() -> bool:
    """Return True in the process that writes files: the first of those that Lightning or torchrun started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def resolve_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Return the precision named `name`; auto is bfloat16 on CUDA and on CPUs with instructions for it."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bfloat16"
    instructions = torch.cpu.get_capabilities()
    return "bfloat16" if instructions.get("avx512_bf16") or instructions.get("amx_bf16") else "float32"


def batch_pixels(limit: int | None, device: torch.device) -> int:
    """Return the number of pixels in a batch of a search: `limit`, or what suits the device."""
    if limit is not None:
        return limit
    if device.type == "cuda":
        return max(CPU_PIXELS, torch.cuda.get_device_properties(device).total_memory // BYTES_PER_PIXEL)
    return CPU_PIXELS
