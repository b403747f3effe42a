"""Which process did something, and whether it still lives."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def this_process() -> str:
    """This process: the machine, its number, and when it was started, as numbers are used again."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def is_gone(process: str) -> bool:
    """Whether a process of this machine is no more; what goes on at other machines is not known here."""
    host, _, rest = process.partition(" ")
    number, _, started = rest.partition(" ")
    return host == socket.gethostname() and _started(number) != started


def _started(number: int | str) -> str:
    """When a process was started, in ticks since the machine was; empty if there is none (proc(5), stat)."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
