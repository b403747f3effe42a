"""A PostgreSQL server of the test's own, with Debian's programs: it asks for a password, and goes with its folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST, USER, PASSWORD = "127.0.0.1", "studies", "bitter-lemon"


def programs() -> Path | None:
    """The folder of the newest server's programs, if one is installed."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").is_file()]
    return max(found, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def serving() -> Iterator[str]:
    """The URL of an empty database, user and password included."""
    place, bin_folder = Path(tempfile.mkdtemp(prefix="blobex-postgresql-")), programs()
    assert bin_folder is not None
    owner = "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
    if owner:
        shutil.chown(place, owner)

    def run(program: str, *arguments: str) -> None:
        command = [str(bin_folder / program), "-D", str(place / "data"), *arguments]
        done = subprocess.run(
            command, cwd=place, user=owner, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    secret = place / "password"
    secret.write_text(PASSWORD)
    port = _free_port()
    options = f"-c listen_addresses={HOST} -c port={port} -c unix_socket_directories= -c fsync=off"
    run(
        "initdb",
        "-U",
        USER,
        "--pwfile",
        str(secret),
        "--auth",
        "scram-sha-256",
        "--no-sync",
        "--locale",
        "C",
        "--encoding",
        "UTF8",
    )
    try:
        run("pg_ctl", "-w", "-l", str(place / "log"), "-o", options, "start")
        yield f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/postgres"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(place)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])
