"""Frechet distance between two sets of pictures (Heusel et al., NeurIPS 2017), in float64."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from blobex.datasets.images import to_float
from blobex.errors import BlobexError
from blobex.networks.parser import load_parser

FeatureNetwork = Callable[[Tensor], Tensor]  # pictures (N,3,H,W) uint8 to features (N,D)
INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_SIZE = 299


@dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of the features of a set of pictures, and where they come from."""

    mean: Tensor  # D float64
    covariance: Tensor  # D,D float64, unbiased
    images: int
    network: str  # of the features: "parser" or "inception"
    setup: str  # the pictures' sizes: "square" or "rect"


class GaussianAccumulator:
    """Collects features batch by batch; the order and size of the batches do not matter."""

    def __init__(self) -> None:
        self._count = 0
        self._sum, self._products = torch.zeros(()), torch.zeros(())

    def update(self, features: Tensor) -> None:
        """Add features (N,D)."""
        features = features.detach().to("cpu", torch.float64)
        self._count += len(features)
        self._sum = self._sum + features.sum(0)
        self._products = self._products + features.T @ features

    def compute(self, network: str, setup: str) -> GaussianStatistics:
        """The statistics of all features so far. BlobexError for fewer than two pictures or features not finite."""
        if self._count < 2:
            raise BlobexError(f"a Frechet distance needs two pictures or more on either side, not {self._count}")
        mean = self._sum / self._count
        covariance = (self._products - self._count * torch.outer(mean, mean)) / (self._count - 1)
        if not covariance.isfinite().all():
            raise BlobexError("some features are not finite: the pictures or the feature network are broken")
        return GaussianStatistics(mean, covariance, self._count, network, setup)


def statistics(batches: Iterable[Tensor], features: FeatureNetwork, network: str, setup: str) -> GaussianStatistics:
    """The statistics of uint8 pictures (N,3,H,W), given in batches of any size."""
    accumulator = GaussianAccumulator()
    with torch.no_grad():
        for batch in batches:
            accumulator.update(features(batch))
    return accumulator.compute(network, setup)


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau, 1982), not below 0.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric.
    BlobexError if the features are of different networks or setups.
    """
    if (a.network, a.setup, a.mean.shape) != (b.network, b.setup, b.mean.shape):
        raise BlobexError(
            f"statistics of {a.network}/{a.setup} and {b.network}/{b.setup} cannot be compared: compute both alike"
        )
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    shared = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    spread = a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(((a.mean - b.mean).square().sum() + spread).item(), 0.0)


def frechet_name(network: str) -> str:
    """What a Frechet distance of this feature network is called: only Inception's is the FID."""
    return "fid" if network == "inception" else f"fd_{network}"


def save_statistics(path: Path, values: GaussianStatistics) -> None:
    """Write the statistics as .npz; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        arrays = {name: np.asarray(value) for name, value in vars(values).items()}
        np.savez(file, allow_pickle=False, **arrays)
    temporary.replace(path)


def load_statistics(path: Path) -> GaussianStatistics:
    """Statistics that `save_statistics` wrote. BlobexError if they are missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return GaussianStatistics(
                mean=torch.from_numpy(content["mean"]),
                covariance=torch.from_numpy(content["covariance"]),
                images=int(content["images"]),
                network=str(content["network"]),
                setup=str(content["setup"]),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BlobexError(f"no Frechet statistics in {path}: run `dvc repro fid_stats` or `dvc pull` first") from error


def load_features(
    network: str, parser_folder: Path, device: torch.device, resize: Literal["clean", "fast"] = "clean"
) -> FeatureNetwork:
    """The feature network "parser" (saved in `parser_folder`) or "inception" (from torch's cache, never downloaded)."""
    if network == "parser":
        parser = load_parser(parser_folder).to(device)
        return lambda images: parser.pooled_features(to_float(images.to(device)))
    if network == "inception":
        return inception_features(Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE, device, resize)
    raise BlobexError(f"unknown feature network {network!r}: choose parser or inception")


def inception_features(path: Path, device: torch.device, resize: Literal["clean", "fast"]) -> FeatureNetwork:
    """Inception's pooled features (N,2048). BlobexError if the network is not at `path`.

    Pictures become 299x299 as clean-fid makes them ("clean": PIL, bicubic, antialiased; Parmar et al., CVPR 2022), or
    on the device ("fast": torch's counterpart).
    """
    if not path.is_file():
        raise BlobexError(f"the Inception network is missing: put NVIDIA's {INCEPTION_FILE} at {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # this file exists in no other format than TorchScript
            layers = torch.jit.load(str(path), map_location=device).eval().layers
    except (RuntimeError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged or another network: put NVIDIA's {INCEPTION_FILE} there") from error
    resized = resize_clean if resize == "clean" else resize_fast

    def features(images: Tensor) -> Tensor:
        x = resized(images).to(device) if resize == "clean" else resized(images.to(device))
        return layers((x - 128) / 128).flatten(1)

    return features


def resize_clean(images: Tensor, size: int = INCEPTION_SIZE) -> Tensor:
    """uint8 (N,3,H,W) to float (N,3,size,size) from 0 to 255, each channel by PIL's bicubic filter in float."""
    channels = images.cpu().flatten(0, 1).numpy().astype(np.float32)
    resized = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in channels]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255).unflatten(0, (len(images), 3))


def resize_fast(images: Tensor, size: int = INCEPTION_SIZE) -> Tensor:
    """As `resize_clean`, but on the device of the pictures."""
    return F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(
        0, 255
    )
