"""Merge of the tables of several commands, or of the shards of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_file
from blobex.explain.explanation import SCHEMA
from blobex.explain.overviews import ROW_GROUP, TABLE
from blobex.explain.results_folder import SETTINGS, difference
from blobex.explain.shards import SHARD

FOLDERS = "*-of-*"  # of the shards of one command
FOLDER = "folder"  # column of a merged table


def merge_tables(folders: Sequence[Path], path: Path) -> int:
    """Merge the tables of results folders, in this order, into one Parquet file; return its number of rows.

    A folder that holds the shards of a command stands for all of them. The column `folder` says where a row's files
    are. Memory does not grow with the number of rows.

    Raises:
        BlobexError: A folder has no finished results, results differ in their settings, or a shard is missing or twice.
    """
    parts = [part for folder in folders for part in _results(folder)]
    _check(parts)
    if path.resolve() in {(part / TABLE).resolve() for part in parts}:
        raise BlobexError(f"{path} is one of the tables to merge: give another file")
    rows = 0
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, _schema()) as writer:
        for part in parts:
            for batch in ds.dataset(part / TABLE, schema=SCHEMA).to_batches(batch_size=ROW_GROUP, use_threads=False):
                names = pa.array([str(part)] * len(batch), pa.string())
                writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, names], schema=_schema()))
                rows += len(batch)
    return rows


def _schema() -> pa.Schema:
    return SCHEMA.append(pa.field(FOLDER, pa.string()))


def _results(folder: Path) -> Iterator[Path]:
    """Yield the folder if it holds results, else those of its shards."""
    shards = sorted(folder.glob(FOLDERS))
    if not shards and not (folder / SETTINGS).is_file():
        raise BlobexError(f"there are no explanations in {folder}: give the OUT of `blobex explain`")
    yield from shards or [folder]


def _check(parts: Sequence[Path]) -> None:
    """Raise BlobexError unless the results belong together and are complete."""
    settings = []
    for part in parts:
        try:
            content = read_json(part / SETTINGS)
            if not pq.read_schema(part / TABLE).equals(SCHEMA):
                raise ValueError("other columns")
            settings.append(dict(content))
        except (OSError, ValueError, TypeError, pa.ArrowException) as error:
            raise BlobexError(f"{part} is not finished: run its `blobex explain` again") from error
    shards = [each.pop(SHARD, None) for each in settings]
    for part, each in zip(parts, settings, strict=True):
        if words := difference(settings[0], each):
            raise BlobexError(f"{parts[0]} and {part} have other settings ({words}): merge results of the same")
    if shards == [None] * len(shards):
        return
    try:
        lists = {(shard["parts"], shard["images"], shard["names"]) for shard in shards}
        present, count = sorted(shard["part"] for shard in shards), int(shards[0]["parts"])
    except (TypeError, LookupError, ValueError) as error:
        raise BlobexError("shards and other results cannot be merged: give the shards of one command") from error
    if len(lists) > 1:
        raise BlobexError("the shards are of several lists of images: give those of one command")
    missing = sorted(set(range(1, count + 1)) - set(present))
    if missing:
        raise BlobexError(f"shard {missing[0]}/{count} is missing, of {len(missing)}: explain it first")
    if len(present) > count:
        raise BlobexError(f"{len(present)} results are given of {count} shards: give each once")
