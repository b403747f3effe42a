"""Weights from elsewhere: the files that blobex can use, where it looks for them, and whether they are whole.

Nothing is downloaded. A file is looked for in the folder `data.external`, then among torch's own downloads
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
from blobex.networks.tensor_file import load_tensors

EXTERNAL = Path("models/external")  # the folder where the parameters name no other


@dataclass(frozen=True)
class ExternalFile:
    """A file, or a folder of `parts`, that others publish."""

    name: str  # of the file or folder
    content: str
    needed_by: str  # the parameter and its values, or what uses the file
    instead: str  # what can be done without it
    source: str
    checksum: str | None = None  # as much of the SHA-256, in hexadecimal, as is published
    parts: tuple[str, ...] = ()  # of a folder; the last holds the weights


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
    "panoptic": ExternalFile(
        "panoptic",
        "a panoptic model in Transformers' format",
        "panoptic maps of photographs",
        "use the parser's panoptic maps",
        "for example https://huggingface.co/facebook/mask2former-swin-small-cityscapes-panoptic",
        parts=("config.json", "preprocessor_config.json", "model.safetensors"),
    ),
}


@dataclass(frozen=True)
class FileStatus:
    """What is known of an external file on this machine."""

    path: Path  # where it is, or where to put it
    state: Literal["present", "missing", "damaged"]  # damaged: unreadable, or of another checksum than published
    sha256: str | None  # of the file, or of a folder's weights


def locate(key: str, folder: Path) -> Path | None:
    """Where the file or folder `key` of FILES is; None if it or one of its parts is nowhere."""
    file = FILES[key]
    for place in (folder / file.name, Path(torch.hub.get_dir()) / "checkpoints" / file.name):
        if all((place / part).is_file() for part in file.parts) if file.parts else place.is_file():
            return place
    return None


def require(key: str, folder: Path) -> Path:
    """As `locate`, but BlobexError if it is missing; the message says what to put where, and what works without it."""
    found, file = locate(key, folder), FILES[key]
    if found is None:
        parts = f" ({', '.join(file.parts)})" if file.parts else ""
        raise BlobexError(
            f"{file.name} is missing: put {file.content}{parts} at {folder / file.name}, or {file.instead}"
        )
    return found


def survey(folder: Path) -> dict[str, FileStatus]:
    """What there is of every external file. Each is read whole, for its checksum."""
    return {key: _inspect(key, folder) for key in FILES}


def table(folder: Path) -> str:
    """The survey as text, three lines a file."""
    lines = []
    for key, found in survey(folder).items():
        file = FILES[key]
        published = f"published {file.checksum}" if file.checksum else "no published checksum"
        lines += [
            f"{key:<10} {found.state:<8}  needed by {file.needed_by}",
            f"           {found.path}: {file.content}",
            f"           SHA-256 {found.sha256}, {published}"
            if found.sha256
            else f"           {published}; {file.source}",
        ]
    return "\n".join(lines)


def read_tensors(path: Path, content: str) -> dict[str, Any]:
    """A PyTorch file of tensors by name, opened without running code from it.

    BlobexError if it is missing, damaged, or holds anything else; `content` says in the message what it should hold.
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
    file, place = FILES[key], locate(key, folder)
    if place is None:
        return FileStatus(folder / file.name, "missing", None)
    try:
        with (place / file.parts[-1] if file.parts else place).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return FileStatus(place, "damaged", None)
    return FileStatus(place, "present" if digest.startswith(file.checksum or "") else "damaged", digest)
