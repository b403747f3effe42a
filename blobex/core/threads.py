"""Threads of OpenMP, with which PyTorch computes. It reads its variables when torch is imported."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def set_thread_defaults(cgroups: Path = Path("/sys/fs/cgroup")) -> None:
    """Let threads that wait for each other sleep, and start no more of them than a container may use.

    A waiting thread otherwise keeps its core busy, so that one core in use by others costs several times the processor
    time of one thread. The number of threads does not follow the load of the machine: on a CPU, the same number gives
    the same bytes. Variables that are set stay as they are.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if limit := container_limit(cgroups):
        os.environ.setdefault("OMP_NUM_THREADS", str(limit))


def container_limit(cgroups: Path) -> int:
    """Return how many whole cores the quota of the container allows, at least 1; 0 if it has no quota."""
    with suppress(OSError, ValueError):
        quota, period = (cgroups / "cpu.max").read_text(encoding="utf-8").split()  # microseconds
        if quota != "max" and int(quota) < int(period) * len(os.sched_getaffinity(0)):
            return max(1, int(quota) // int(period))
    return 0
