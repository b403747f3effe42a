"""Published weight files that blobex can use: their names, checksums and sources.

Nothing is downloaded. Files are searched in the folder `data.external`, then among torch's own downloads
(`hub/checkpoints` under $TORCH_HOME).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from blobex.core.errors import BlobexError
from blobex.networks.weights import load_tensors

EXTERNAL = Path("models/external")  # default of `data.external`


@dataclass(frozen=True)
class ExternalFile:
    """A published weight file."""

    name: str
    content: str
    needed_by: str  # the parameter and its values
    alternative: str  # the parameter value that works without the file
    source: str
    checksum: str | None = None  # the published first digits of the SHA-256, in hexadecimal


def _torchvision(network: str, name: str) -> ExternalFile:
    return ExternalFile(
        name,
        f"torchvision's weights of {network}",
        f"data.perceptual: {network}",
        "set data.perceptual to parser",
        f"https://download.pytorch.org/models/{name}",
        name.removesuffix(".pth").rpartition("-")[2],  # names of these files end in the start of their checksum
    )


FILES: Mapping[str, ExternalFile] = {
    "inception": ExternalFile(
        "inception-2015-12-05.pt",
        "NVIDIA's TorchScript file of Inception-v3",
        "data.frechet: inception or inception_clean",
        "set data.frechet to parser",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    ),
    "vgg": _torchvision("vgg", "vgg16-397923af.pth"),
    "alex": _torchvision("alex", "alexnet-owt-7be5be79.pth"),
    "squeeze": _torchvision("squeeze", "squeezenet1_1-b8a52dc0.pth"),
    "simsiam": ExternalFile(
        "checkpoint_0099.pth.tar",
        "SimSiam's ResNet-50 of 100 epochs",
        "data.similarity: simsiam",
        "set data.similarity to parser",
        "https://dl.fbaipublicfiles.com/simsiam/models/100ep/pretrain/checkpoint_0099.pth.tar",
    ),
}


@dataclass(frozen=True)
class FileStatus:
    """State of an external file on this machine."""

    path: Path  # of the file, or where to put it
    state: Literal["present", "missing", "damaged"]  # damaged: unreadable, or not of the published checksum
    sha256: str | None


def locate(key: str, folder: Path) -> Path | None:
    """Return the path of the file `key` of FILES, or None if it is missing."""
    name = FILES[key].name
    paths = (folder / name, Path(torch.hub.get_dir()) / "checkpoints" / name)
    return next((path for path in paths if path.is_file()), None)


def require(key: str, folder: Path) -> Path:
    """Return the path of the file `key` of FILES; if it is missing, BlobexError says what to do."""
    path, file = locate(key, folder), FILES[key]
    if path is None:
        raise BlobexError(f"{file.name} is missing: put {file.content} at {folder / file.name}, or {file.alternative}")
    return path


def survey(folder: Path) -> dict[str, FileStatus]:
    """Return the state of every external file, by its key in FILES. All files are read, for their checksums."""
    return {key: _inspect(key, folder) for key in FILES}


def table(folder: Path) -> str:
    """Format the survey as text, three lines per file."""
    lines = []
    for key, status in survey(folder).items():
        file = FILES[key]
        published = f"published {file.checksum}" if file.checksum else "no published checksum"
        checksum = f"SHA-256 {status.sha256}, {published}" if status.sha256 else f"{published}; {file.source}"
        lines.append(f"{key:<10} {status.state:<8}  needed by {file.needed_by}")
        lines += [f"{'':<11}{text}" for text in (f"{status.path}: {file.content}", checksum)]
    return "\n".join(lines)


def read_tensors(path: Path, content: str) -> dict[str, Any]:
    """Load a PyTorch file of named tensors without running code from it.

    Raises:
        BlobexError: if the file is missing, damaged or holds anything else; it names the expected `content`.
    """
    try:
        state = load_tensors(path)
    except FileNotFoundError as error:
        raise BlobexError(f"{path.name} is missing: put {content} at {path}") from error
    except (OSError, ValueError) as error:
        raise BlobexError(f"{path} is damaged: put {content} there again") from error
    if not isinstance(state, dict):
        raise BlobexError(f"{path} holds no tensors by name: put {content} there")
    return state


def _inspect(key: str, folder: Path) -> FileStatus:
    file, path = FILES[key], locate(key, folder)
    if path is None:
        return FileStatus(folder / file.name, "missing", None)
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return FileStatus(path, "damaged", None)
    return FileStatus(path, "present" if digest.startswith(file.checksum or "") else "damaged", digest)
