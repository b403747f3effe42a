"""A folder of results that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blobex.counterfactual.result import TABLE
from blobex.errors import BlobexError
from blobex.files import whole_folder

RESULTS = (TABLE, "snapshot_*.png", "metadata_*.pt")


@contextmanager
def result_folder(out: str | Path | None) -> Iterator[Path | None]:
    """A temporary folder beside `out` that takes its place at the end, if all went well; None for None.

    Earlier results in `out` are replaced. BlobexError: `out` is a file, holds anything else, or cannot be written.
    """
    if out is None:
        yield None
        return
    out = Path(out).resolve()  # a link's target is replaced, not the link
    if out.is_mount():
        raise BlobexError(f"{out} is a file system of its own and cannot be replaced: give a folder within it")
    try:
        _check_replaceable(out)
        with whole_folder(out) as folder:
            yield folder
    except OSError as error:
        raise BlobexError(f"cannot write {out} ({error.strerror}): give another folder") from error


def _check_replaceable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise BlobexError(f"{out} is a file: give a folder for the results")
    others = [path.name for path in (out.iterdir() if out.is_dir() else ()) if not any(map(path.match, RESULTS))]
    if others:
        raise BlobexError(f"{out} holds {others[0]}, which is no result of blobex: give a new or an empty folder")
