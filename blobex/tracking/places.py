"""Places of local MLflow stores: their folder, also from within DVC's experiments, and after the folder was moved."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from blobex.core.project import project_folder

SQLITE = "sqlite:///"
EXPERIMENTS = (".dvc", "tmp", "exps")  # where `dvc exp run --temp` and `--queue` run copies of the project
ARTIFACTS = "/artifacts/"
# Columns of MLflow's tables that hold absolute places of files.
COLUMNS = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def keeper(folder: Path) -> Path:
    """Return the folder that keeps the runs of the project in `folder`.

    DVC deletes the folder in which `dvc exp run --temp` and `--queue` run: there, it is the project they were given in.

    >>> keeper(Path("/home/road/.dvc/tmp/exps/standalone/tmp1"))
    PosixPath('/home/road')
    """
    parts = folder.parts
    for place in range(len(parts) - len(EXPERIMENTS)):
        if parts[place : place + len(EXPERIMENTS)] == EXPERIMENTS:
            return Path(*parts[:place])
    return folder


def located(uri: str) -> str:
    """Return the URI of a local store with an absolute path, relative to the project; other URIs unchanged.

    MLflow keeps one connection for each URI, which would outlive a change of the current folder.
    """
    if not uri.startswith(SQLITE):
        return uri
    path = str(keeper(project_folder()) / uri.removeprefix(SQLITE))
    return f"{SQLITE}{path if '?' not in path else os.path.relpath(path)}"  # a URI ends at a question mark


def database(uri: str) -> Path:
    """Return the file of a local store."""
    return Path(located(uri).removeprefix(SQLITE))


def local_path(uri: str) -> Path:
    """Return the path of a file URI.

    >>> local_path("file:///data/my%20runs")
    PosixPath('/data/my runs')
    """
    return Path(unquote(uri.removeprefix("file://")))


def local_artifacts(uri: str, stage: str) -> str:
    """Return the URI of a stage's artifacts beside a local database."""
    return (database(uri).parent / "artifacts" / stage).resolve().as_uri()


def relocate(file: Path, patience: float) -> int:
    """Correct the places of artifacts in the database of a store that was moved with its folder; return their number.

    MLflow stores them as absolute URIs. Only places whose files lie beside the database now are changed.

    Args:
        patience: seconds to wait for another process that holds the database.

    Raises:
        sqlite3.OperationalError: the database is held for longer.
    """
    folder, count = file.parent.resolve(), 0
    with closing(sqlite3.connect(file, timeout=patience)) as connection, connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if not {"experiments", *(table for table, _ in COLUMNS)} <= tables:
            return 0  # new
        for table, column in COLUMNS:
            for (old,) in connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall():
                new = _beside(folder, old)
                if new is not None:
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
                    count += 1
        for number, old in connection.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall():
            new = _beside(folder, old)
            own = "SELECT 1 FROM runs WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?"
            if new is not None and connection.execute(own, (number, len(new) + 1, f"{new}/")).fetchone():
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (new, number)
                )
                count += 1
    return count


def _beside(folder: Path, uri: str | None) -> str | None:
    """Return the URI of the files in `folder` that lay at `uri` before a move; None if they did not move."""
    root = folder.as_uri() + ARTIFACTS
    if uri is None or not uri.startswith("file://") or uri.startswith(root):
        return None
    _, *parts = uri.split(ARTIFACTS)  # the folder itself may lie below another of that name
    places = [ARTIFACTS.join(parts[start:]) for start in range(len(parts))]
    return next((root + place for place in places if place and (folder / "artifacts" / unquote(place)).exists()), None)
