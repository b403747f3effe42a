"""Files of tensors in the format of torch.save, read without running code from them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from blobex.core.files import check_packed


def load_tensors(path: Path, mapped: bool = False) -> Any:
    """Load tensors and plain containers; with `mapped`, tensors are read when they are used.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is damaged or holds anything else.
    """
    check_packed(path)
    try:
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many kinds for damaged and foreign files
        raise ValueError("it is damaged, or holds more than tensors") from error


def save_tensors(path: Path, content: Any) -> None:
    """Save tensors and plain containers; raise OSError, where torch.save hides the reason, such as a full disk."""
    stream = io.BytesIO()
    torch.save(content, stream)
    path.write_bytes(stream.getbuffer())
