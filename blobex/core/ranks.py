"""Several processes that share one work, as torchrun starts them."""

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
PATIENCE = timedelta(days=30)  # one share may take far longer than another; of dead processes the others hear at once


@dataclass(frozen=True)
class Ranks:
    """This process among `size`, which torchrun numbers from 0; alone if nothing else is said."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process does what is done once."""
        return self.rank == 0

    def has(self, number: int) -> bool:
        """Whether piece `number` of the work is in this process's share."""
        return number % self.size == self.rank

    def places(self, numbers: Tensor) -> Tensor:
        """Where pieces of this process's share stand in it, which is in order."""
        return numbers // self.size

    def wait(self) -> None:
        """Go on when all have come here; BlobexError if one of them is gone."""
        self.gathered([])

    def gathered(self, items: Sequence[Item]) -> list[Item]:
        """What all have, rank by rank; BlobexError if one of them is gone. All must call it."""
        if self.size == 1:
            return list(items)
        parts: list[Sequence[Item]] = [()] * self.size
        try:
            distributed.all_gather_object(parts, list(items))
        except RuntimeError as error:
            raise BlobexError("another process of this run is gone: start all again, what is done is kept") from error
        return [item for part in parts for item in part]


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those that torchrun started, on a GPU of its own if there are enough; else alone.

    They only ever wait for each other and pass on names, so gloo will do on every device.
    """
    if "RANK" not in os.environ:  # torchrun sets it
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
