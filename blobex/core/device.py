"""Devices, their precisions and batch sizes, and ranks: processes that torchrun starts to share one job."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeVar

import torch
from torch import distributed

from blobex.core.errors import BlobexError
from blobex.core.precision import Precision, cpu_precision

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX in glibc's malloc.h
CPU_PIXELS = 2**16  # 8 images of 64x128, whose score maps still fit a core's cache
BYTES_PER_PIXEL = 2**16  # of GPU memory, with a margin
Item = TypeVar("Item")
TIMEOUT = timedelta(days=30)  # shares take different times; a dead process is noticed at once


def resolve_device(name: str) -> torch.device:
    """Return the device named auto (cuda if available), cpu or cuda.

    Processes that Lightning or torchrun started on one machine are spread over its GPUs. Raises BlobexError if the name
    is unknown or the device is not available.
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
    """Let glibc reuse freed memory: zeroing new pages for large tensors took a third of a step (measured)."""
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
    """Return the precision named `name`; auto is bfloat16 on CUDA, and on a CPU what is fastest there."""
    if name != "auto":
        return name
    return "bfloat16" if device.type == "cuda" else cpu_precision()


def batch_pixels(limit: int | None, device: torch.device) -> int:
    """Return the number of pixels in a batch of a search: `limit`, or what suits the device."""
    if limit is not None:
        return limit
    if device.type == "cuda":
        return max(CPU_PIXELS, torch.cuda.get_device_properties(device).total_memory // BYTES_PER_PIXEL)
    return CPU_PIXELS


@dataclass(frozen=True)
class Ranks:
    """Rank of this process among `size` processes (default: the only one); item i of a job belongs to rank i % size."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True for the process that does what is done once, such as writing summaries."""
        return self.rank == 0

    def has(self, number: int) -> bool:
        """Return True if item `number` belongs to this process."""
        return number % self.size == self.rank

    def wait(self) -> None:
        """Wait for all processes. Raises BlobexError if one has died."""
        self.gather([])

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """Return the items of all processes, rank by rank. All must call it; raises BlobexError if one has died."""
        if self.size == 1:
            return list(items)
        parts: list[Sequence[Item]] = [()] * self.size
        try:
            distributed.all_gather_object(parts, list(items))
        except RuntimeError as error:
            raise BlobexError("another process of this run is gone: start all again, finished parts stay") from error
        return [item for part in parts for item in part]


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, each on its own GPU if there are enough; without torchrun, run alone.

    The processes only wait for each other and exchange names, so gloo serves on every device.
    """
    if "RANK" not in os.environ:  # torchrun sets it
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
