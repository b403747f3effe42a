"""Identity of processes, and whether they still run."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def this_process() -> str:
    """Return the host, the number and the start time of this process; process numbers alone are reused."""
    return f"{socket.gethostname()} {os.getpid()} {_start_time(os.getpid())}"


def is_gone(process: str) -> bool:
    """Return True if a process of this host has ended; processes of other hosts always count as running."""
    host, _, rest = process.partition(" ")
    number, _, start_time = rest.partition(" ")
    return host == socket.gethostname() and _start_time(number) != start_time


def _start_time(number: int | str) -> str:
    """Return the start of a process in clock ticks since boot, or "" if it has ended; see stat in proc(5)."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock file that one process of this machine holds at a time; it is released when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
