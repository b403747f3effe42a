"""Locks that end with their holder, however it ends: of this machine's processes, and of a database's clients."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import NullPool, create_engine, func, select, text

SHARED = 0x626C6F62  # the advisory lock's number, the same for every client
# A machine that lost its power or its network says no goodbye: the server asks after 30 seconds, three times.
KEEPALIVE = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock of this machine's processes, and hold it; it ends with the process at the latest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    """Whether some process holds a lock."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def locked_in_postgresql(url: str) -> Iterator[None]:
    """Wait for the lock that all clients of a PostgreSQL database share, and hold it; it ends with the connection."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for setting in KEEPALIVE:
            connection.execute(text(f"SET {setting}"))
        connection.execute(select(func.pg_advisory_lock(SHARED)))
        yield
