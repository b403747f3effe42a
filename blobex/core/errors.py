"""The one error that blobex shows to its users, and what they are shown of an error."""

from __future__ import annotations

MOST = 1000  # letters of a message: more is a data set's fault, and nobody reads it


class BlobexError(ValueError):
    """Bad input or a missing file: the message is one sentence that says what is wrong and what to do."""


def sentence(error: BlobexError | OSError) -> str:
    """What a command says of the error that ended it, in one line."""
    if isinstance(error, OSError):  # a full disk, a folder that is read-only, a name that is too long
        file = error.filename or "a file"
        return brief(f"cannot read or write {file} ({error.strerror or error}): check the disk and the path", MOST)
    return brief(error, MOST)


def brief(text: object, most: int = 200) -> str:
    """A text in one line of `most` letters at the most."""
    words = " ".join(str(text).split())
    return words if len(words) <= most else f"{words[: most - 4]} ..."
