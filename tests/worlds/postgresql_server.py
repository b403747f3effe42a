"""PostgreSQL server for tests, with Debian's programs and a password; it is removed with its folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worlds.tracking_server import free_port

HOST, USER, PASSWORD = "127.0.0.1", "studies", "bitter-lemon"


def programs() -> Path | None:
    """Return the folder of the newest installed server's programs, or None."""
    folders = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").is_file()]
    return max(folders, key=lambda path: float(path.parent.name), default=None)


@contextmanager
def serving() -> Iterator[str]:
    """Run a server; yield the URL of an empty database, user and password included."""
    folder, bin_folder = Path(tempfile.mkdtemp(prefix="blobex-postgresql-")), programs()
    assert bin_folder is not None
    owner = "nobody" if os.getuid() == 0 else None  # the server refuses to run as root
    if owner:
        shutil.chown(folder, owner)

    def run(program: str, *arguments: str) -> None:
        command = [str(bin_folder / program), "-D", str(folder / "data"), *arguments]
        done = subprocess.run(
            command, cwd=folder, user=owner, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    secret = folder / "password"
    secret.write_text(PASSWORD)
    port = free_port()
    options = f"-c listen_addresses={HOST} -c port={port} -c unix_socket_directories= -c fsync=off"
    login = ["-U", USER, "--pwfile", str(secret), "--auth", "scram-sha-256"]
    run("initdb", *login, "--no-sync", "--locale", "C", "--encoding", "UTF8")
    try:
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://{USER}:{PASSWORD}@{HOST}:{port}/postgres"
    finally:
        run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)
