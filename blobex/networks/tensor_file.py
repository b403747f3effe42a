"""Files of tensors that torch.save wrote, ours and others', opened without running any code from them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from blobex.core.files import check_packed


def load_tensors(path: Path, mapped: bool = False) -> Any:
    """What torch.save wrote of tensors and plain containers; no code from the file is run.

    With `mapped`, tensors are read only as they are used.

    OSError as the file system gives it, ValueError for a file that is damaged or holds anything else.
    """
    check_packed(path)
    try:
        return torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch.load raises many kinds; each means that the file is not what it should be
        raise ValueError("it is damaged, or holds more than tensors") from error


def save_tensors(path: Path, content: Any) -> None:
    """Write tensors and plain containers as torch.save does. OSError as the file system gives it, as of a full disk.

    torch itself says of a full disk only that its stream failed.
    """
    stream = io.BytesIO()
    torch.save(content, stream)
    path.write_bytes(stream.getbuffer())
