"""Processes that torchrun starts to share one job."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from blobex.core.errors import BlobexError

Item = TypeVar("Item")
TIMEOUT = timedelta(days=30)  # shares take different times; a dead process is noticed at once


@dataclass(frozen=True)
class Ranks:
    """Rank of this process among `size` processes; by default it is the only one.

    Items of a job are dealt out in turn: item i belongs to rank i % size.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """True for the process that does what is done once, such as writing summaries."""
        return self.rank == 0

    def has(self, number: int) -> bool:
        """Return True if item `number` belongs to this process."""
        return number % self.size == self.rank

    def positions(self, numbers: Tensor) -> Tensor:
        """Return the positions of items within the share of this process."""
        return numbers // self.size

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
            raise BlobexError(
                "another process of this run is gone: start all again, finished parts are kept"
            ) from error
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
