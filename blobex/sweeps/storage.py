"""Folder and storage of a study."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import NullPool, create_engine, func, inspect, make_url, select, text

from blobex.config.messages import abbreviated
from blobex.config.value_types import FILE_NAME_RULE, is_file_name
from blobex.core.errors import BlobexError, brief
from blobex.core.files import without_password
from blobex.core.processes import locked

KINDS = ("cf", "invert", "encoder")  # of sweeps
VARIABLE = "BLOBEX_STORAGE"  # environment variable with the URL: a command line would show its password to everybody
HEARTBEAT, GRACE = 60, 150  # seconds: interval of a trial's heartbeat in a database, and when the trial counts as lost
TRIES = 8  # of a trial whose worker dies each time: perhaps it takes too much memory
POSTGRESQL_LOCK = 0x626C6F62  # number of the advisory lock that all workers of a database share
# A machine that loses power or network keeps the lock until the server finds out: after a minute, not after two hours.
KEEPALIVE = ("tcp_keepalives_idle = 30", "tcp_keepalives_interval = 10", "tcp_keepalives_count = 3")


def folder_of(kind: str, name: str, reports: Path = Path("reports")) -> Path:
    """Return the folder of a study; raise BlobexError if the kind is unknown or the name is no file name."""
    if kind not in KINDS:
        raise BlobexError(f"unknown sweep {kind!r}: choose from {', '.join(KINDS)}")
    if not is_file_name(name):
        raise BlobexError(f"the study is called {abbreviated(name)}: give a name of {FILE_NAME_RULE}")
    return reports / f"sweep_{kind}" / name


@dataclass(frozen=True)
class StudyFolder:
    """Folder of a study's reports, and the URL of its database; without one, the study is a file in the folder."""

    path: Path
    url: str | None = None

    @property
    def journal(self) -> Path:
        return self.path / "study.log"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock under which trials are taken: of this machine or, with PostgreSQL, of all machines.

        Optuna lets several workers count the same trials and seed the same sampler, which would then try more trials
        than wanted, and some values twice.
        """
        url = make_url(self.url) if self.url else None
        backend = url.get_backend_name() if url else None
        path = Path(f"{url.database}.lock") if url and backend == "sqlite" else self.path / "workers" / "claim.lock"
        with locked(path):
            if self.url is None or backend != "postgresql":
                yield
                return
            engine = create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                for setting in KEEPALIVE:
                    connection.execute(text(f"SET {setting}"))
                connection.execute(select(func.pg_advisory_lock(POSTGRESQL_LOCK)))
                yield


class _JournalLock(JournalFileOpenLock):
    """Lock of the journal that ends with its process: those of Optuna outlive a killed one for half a minute."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path, self.lock = path, ExitStack()

    def acquire(self) -> bool:
        self.lock.enter_context(locked(self.path))
        return True

    def release(self) -> None:
        self.lock.close()


def retry_callback() -> RetryHeartbeatStaleTrialCallback:
    """Return Optuna's callback that queues the values of a lost trial again."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        return RetryHeartbeatStaleTrialCallback(max_retry=TRIES - 1)


def open_storage(folder: StudyFolder) -> BaseStorage:
    """Open the storage of a study, and create it if needed.

    A database has Optuna's heartbeat: trials of machines that went silent are queued again.

    Raises:
        BlobexError: if the database cannot be used, or if the journal is damaged.
    """
    return _open_journal(folder) if folder.url is None else _open_database(folder, folder.url)


def _open_journal(folder: StudyFolder) -> BaseStorage:
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = _JournalLock(folder.path / ".study.lock")
    with locked(lock.path):
        _cut_incomplete_line(folder.journal)
    try:
        return JournalStorage(JournalFileBackend(str(folder.journal), lock_obj=lock))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise BlobexError(
            f"{folder.journal} is damaged ({brief(error)}): move it away, or give another --name"
        ) from error


def _open_database(folder: StudyFolder, url: str) -> BaseStorage:
    try:
        engine = create_engine(url)
        inspect(engine).get_table_names()  # before a folder is made for a database that cannot be used
        engine.dispose()
        folder.path.mkdir(parents=True, exist_ok=True)
        # The first use of a database creates its tables.
        with folder.exclusive(), warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            return RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True},  # servers close connections that are idle during a long trial
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=retry_callback(),
            )
    except Exception as error:  # each database has its own exceptions
        raise BlobexError(
            f"the storage {without_password(url)} cannot be used ({brief(without_password(str(error)))}): give a "
            "database's URL, such as sqlite:///sweeps.db, and install its driver"
        ) from error


def _cut_incomplete_line(journal: Path) -> None:
    """Cut off a last line without end, which a power failure leaves: Optuna could not read the lines after it."""
    if journal.exists():
        content = journal.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            with journal.open("rb+") as file:
                file.truncate(complete)
