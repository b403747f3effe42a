"""The error type for mistakes of the user, one-line error messages, and output that never fails on odd characters."""

from __future__ import annotations

import io
import sys

MESSAGE_LIMIT = 1000  # characters


class BlobexError(ValueError):
    """Bad input or a missing file: the message is one sentence that says what is wrong and what to do."""


def sentence(error: BlobexError | OSError) -> str:
    """Return the one-line message of the error that ended a command."""
    if isinstance(error, OSError):  # a full disk, a read-only folder, a name that is too long
        file, reason = error.filename or "a file", error.strerror or error
        return brief(f"cannot read or write {file} ({reason}): check the disk and the path", MESSAGE_LIMIT)
    return brief(error, MESSAGE_LIMIT)


def brief(text: object, limit: int = 200) -> str:
    """Return a text as one line of at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


def print_any_text() -> None:
    """Let `print` escape what the terminal cannot show, such as the bytes of a file name that is not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
