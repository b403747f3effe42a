"""Where a study is kept, and which processes work on it."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import create_engine, inspect, make_url

from blobex.config.messages import abbreviated
from blobex.config.value_types import FILE_NAME_RULE, is_file_name
from blobex.core.errors import BlobexError, brief
from blobex.core.files import without_password
from blobex.sweeps.claim import is_locked, locked, locked_in_postgresql

KINDS = ("cf", "invert", "encoder")  # of sweeps
VARIABLE = "BLOBEX_STORAGE"  # holds the URL: on a command line everybody could read its password
HEARTBEAT, SILENCE = 60, 150  # seconds: how often a trial in a database tells that it lives, and when it is given up


def folder_of(kind: str, name: str, reports: Path = Path("reports")) -> Path:
    """Where a study is kept. BlobexError: there is no such kind, or the name cannot be a folder's."""
    if kind not in KINDS:
        raise BlobexError(f"unknown sweep {kind!r}: choose from {', '.join(KINDS)}")
    if not is_file_name(name):
        raise BlobexError(f"the study is called {abbreviated(name)}: give a name of {FILE_NAME_RULE}")
    return reports / f"sweep_{kind}" / name


@dataclass(frozen=True)
class Place:
    """The folder of a study, and its storage: a file in the folder, or a database's URL."""

    folder: Path
    url: str | None = None

    @property
    def journal(self) -> Path:
        return self.folder / "study.log"

    @property
    def database(self) -> str | None:
        """The kind of database; None: a file."""
        return make_url(self.url).get_backend_name() if self.url else None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """A context in which this process alone takes trials: of all on this machine or, with PostgreSQL, of all."""
        path = self.folder / "workers" / "claim.lock"
        if self.url and self.database == "sqlite":
            path = Path(f"{make_url(self.url).database}.lock")
        with ExitStack() as stack:
            stack.enter_context(locked(path))
            if self.url and self.database == "postgresql":
                stack.enter_context(locked_in_postgresql(self.url))
            yield

    @contextmanager
    def alive(self) -> Iterator[list[str]]:
        """The name of a worker, which counts as alive as long as the context lasts: its machine and its lock."""
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        path = self._lock(name)
        with locked(path):
            yield [socket.gethostname(), name]
            path.unlink()

    def is_dead(self, worker: list[str] | None) -> bool:
        """Whether a worker is known to be gone; call it within `claimed`.

        A worker leaves a lock file behind if it is killed. What goes on at other machines, only a database's heartbeat
        tells.
        """
        if worker is None:  # killed between taking a trial and signing it: both are done within `claimed`
            return self.database in (None, "sqlite", "postgresql")
        path = self._lock(worker[1])
        return not is_locked(path) and (self.url is None or path.exists())

    def forget(self, worker: list[str] | None) -> None:
        """Remove what a dead worker left."""
        if worker is not None:
            self._lock(worker[1]).unlink(missing_ok=True)

    def _lock(self, name: str) -> Path:
        return self.folder / "workers" / f"{name}.lock"


class _FileLock(JournalFileOpenLock):
    """The journal's lock. Optuna's own outlive a killed process, and the others then wait half a minute."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self.file: IO[str] | None = None

    def acquire(self) -> bool:
        self.file = self.path.open("a")
        fcntl.flock(self.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def open_storage(place: Place, silent: Callable[[optuna.Study, optuna.trial.FrozenTrial], None]) -> BaseStorage:
    """The storage of a place, made if there is none; `silent` is told of trials whose heartbeat has stopped.

    BlobexError: the database cannot be reached, or the file is damaged.
    """
    if place.url is None:
        place.folder.mkdir(parents=True, exist_ok=True)
        lock = _FileLock(place.folder / ".study.lock")
        with locked(lock.path):
            _mend(place.journal)
        try:
            return JournalStorage(JournalFileBackend(str(place.journal), lock_obj=lock))
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:  # of a foreign line
            told = f"{place.journal} is damaged ({brief(error)}): move it away, or give another --name"
            raise BlobexError(told) from error
    try:
        engine = create_engine(place.url)
        inspect(engine).get_table_names()  # before there is a folder for what cannot be used
        engine.dispose()
        place.folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(), place.claimed():  # the first use of a database creates its tables
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(
                place.url,
                engine_kwargs={"pool_pre_ping": True},  # servers end connections that rest through a long trial
                heartbeat_interval=HEARTBEAT,
                grace_period=SILENCE,
                heartbeat_stale_trial_callback=silent,
            )
    except Exception as error:  # each database has errors of its own
        raise BlobexError(
            f"the storage {without_password(place.url)} cannot be used ({brief(without_password(str(error)))}): give a "
            "database's URL, such as sqlite:///sweeps.db, and install its driver"
        ) from error


def _mend(journal: Path) -> None:
    """Cut off a last line that was not written to its end: Optuna would read no line after it."""
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
