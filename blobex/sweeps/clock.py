"""What a trial costs in time, whatever else the machine does beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_core() -> Iterator[None]:
    """In this context, and in functions that it decorates, PyTorch computes with one thread.

    Else a trial's time would depend on how many workers share the cores: threads that wait for each other count, too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(device: torch.device) -> float:
    """A clock in seconds: this process's time on the processor, or with a GPU, whose work that leaves out, the time.

    Other processes that want the same core make a trial last longer, but need no more of the processor.
    """
    return time.process_time() if device.type == "cpu" else time.perf_counter()
