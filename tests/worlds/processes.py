"""Run a program in several processes, as torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def file_contents(folder: Path) -> dict[str, bytes]:
    """Return the content of all files in a folder by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_processes(
    project: Path, size: int, *words: str, dies: tuple[int, int | str] | None = None
) -> list[tuple[int, str, str]]:
    """Run `size` processes with the environment of torchrun; return their exit codes, outputs and errors.

    `dies` is a rank and the value of its variable DIES_AT, at which it ends itself.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in ranks.items()} if size > 1 else {}
        if dies and dies[0] == rank:
            environment["DIES_AT"] = str(dies[1])
        base = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
        started.append(
            subprocess.Popen(
                [sys.executable, *words],
                cwd=project,
                env=base | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = [process.communicate(timeout=120) for process in started]
    return [(process.returncode, *end) for process, end in zip(started, ends, strict=True)]
