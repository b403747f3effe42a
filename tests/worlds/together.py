"""Several processes of one program, as torchrun starts them, and what they leave."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def together(
    project: Path, size: int, *words: str, dies: tuple[int, int | str] | None = None
) -> list[tuple[int, str, str]]:
    """The exit codes, outputs and errors of `size` processes, in an environment as torchrun sets it.

    `dies` is a rank and what it is killed at, in DIES_AT.
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
