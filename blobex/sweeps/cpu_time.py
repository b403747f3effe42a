"""Timing of trials that does not depend on other processes of the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute with one thread, in a context or a decorated function.

    The time of a trial must not depend on the number of workers, and threads that wait for each other count as time.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds(device: torch.device) -> float:
    """Return a clock in seconds: CPU time of this process or, on a GPU, whose work that leaves out, wall-clock time."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()
