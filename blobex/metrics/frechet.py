"""Frechet distance between two sets of images (Heusel et al., NeurIPS 2017), in float64, and its feature networks.

The distance is our own: the roots of clean-fid and torchmetrics are inexact where a covariance is singular.
"""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor

from blobex.config.value_types import is_file_name
from blobex.core.errors import BlobexError
from blobex.core.files import check_packed, whole_file
from blobex.datasets.images import to_float
from blobex.networks.external import EXTERNAL, FILES, require
from blobex.networks.parser import load_parser

UNPACKED = 2**26  # bytes of the largest compressed statistics: 2,800 features
FeatureNetwork = Callable[[Tensor], Tensor]  # images (N,3,H,W) uint8 to features (N,D)


def load_features(network: str, parser_folder: Path, device: torch.device, external: Path = EXTERNAL) -> FeatureNetwork:
    """Load "parser" from its folder, or "inception" or "inception_clean" (resized as clean-fid does) from `external`.

    Raises BlobexError if it is unknown, missing or damaged; the message says which file belongs where.
    """
    if network == "parser":
        parser = load_parser(parser_folder).to(device)
        return lambda images: parser.pooled_features(to_float(images.to(device)))
    if network in INCEPTION_RESIZES:
        return inception_features(require("inception", external), device, INCEPTION_RESIZES[network])
    raise BlobexError(f"unknown feature network {network!r}: choose parser, {' or '.join(INCEPTION_RESIZES)}")


def inception_features(path: Path, device: torch.device, resize: Callable[[Tensor], Tensor]) -> FeatureNetwork:
    """Load clean-fid's Inception-v3 (Parmar et al., CVPR 2022), whose features are (N,2048).

    `resize` maps images (N,3,H,W) uint8 to float (N,3,299,299), 0 to 255. Raises BlobexError if `path` is not NVIDIA's
    TorchScript file.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load: the file exists in no other format
            network = InceptionV3W(str(path.parent), download=False).to(device)
    except (RuntimeError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged or another network: put {FILES['inception'].content} there") from error
    return lambda images: network(resize(images.to(device)).to(device))


def resize_clean(images: Tensor) -> Tensor:
    """Resize images (N,3,H,W) uint8 to float (N,3,299,299), 0 to 255, by clean-fid on the CPU: PIL's bicubic filter."""
    resize = build_resizer("clean")
    resized = np.stack([resize(image) for image in images.cpu().permute(0, 2, 3, 1).numpy()])
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous()


def resize_fast(images: Tensor) -> Tensor:
    """Resize images as `resize_clean`, but on their device; results differ by less than 0.1 grey level."""
    return F.interpolate(images.float(), (299, 299), mode="bicubic", antialias=True, align_corners=False).clamp(0, 255)


INCEPTION_RESIZES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "inception": resize_fast,
    "inception_clean": resize_clean,
}


@dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of the features of a set of images, and their origin."""

    mean: Tensor  # D float64
    covariance: Tensor  # D,D float64, unbiased
    images: int | None  # None: not known
    network: str  # feature network: "parser", "inception" or "inception_clean"
    setup: str  # shape of the images: "square" or "rect"


class GaussianAccumulator:
    """Statistics of features that come batch by batch; batch sizes and order do not matter."""

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
        """Return the statistics so far; BlobexError if there are fewer than two images, or a feature is not finite."""
        if self._count < 2:
            raise BlobexError(f"a Frechet distance needs two images or more on either side, not {self._count}")
        mean = self._sum / self._count
        covariance = (self._products - self._count * torch.outer(mean, mean)) / (self._count - 1)
        if not covariance.isfinite().all():
            raise BlobexError("some features are not finite: the images or the feature network are broken")
        return GaussianStatistics(mean, covariance, self._count, network, setup)


def statistics(batches: Iterable[Tensor], features: FeatureNetwork, network: str, setup: str) -> GaussianStatistics:
    """Compute the statistics of images (N,3,H,W) uint8, given in batches of any size.

    >>> batches = [torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 2, dtype=torch.uint8)]
    >>> statistics(batches, lambda images: images.double().mean((2, 3)), "parser", "square").mean.tolist()
    [1.0, 1.0, 1.0]
    """
    accumulator = GaussianAccumulator()
    with torch.no_grad():
        for batch in batches:
            accumulator.update(features(batch))
    return accumulator.compute(network, setup)


def gaussian(features: Tensor, network: str, setup: str) -> GaussianStatistics:
    """Compute the statistics of features (N,D).

    >>> gaussian(torch.tensor([[0.0], [2.0]]), "parser", "rect").covariance.tolist()
    [[2.0]]
    """
    return statistics([features], lambda batch: batch, network, setup)


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Compute |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau, 1982), at least 0.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric.
    Raises BlobexError if the features are of different networks or setups.

    >>> features = torch.tensor([[0.0], [2.0]])
    >>> a, b = gaussian(features, "parser", "rect"), gaussian(features + 3, "parser", "rect")
    >>> round(frechet_distance(a, b), 6)
    9.0
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
    """Return the name of the Frechet distance by a network's features; only Inception's is the FID.

    >>> frechet_name("inception_clean"), frechet_name("parser")
    ('fid_clean', 'fd_parser')
    """
    return network.replace("inception", "fid") if network in INCEPTION_RESIZES else f"fd_{network}"


def save_statistics(path: Path, values: GaussianStatistics) -> None:
    """Write statistics to a .npz file, all of it or nothing."""
    arrays = {name: np.asarray(value) for name, value in vars(values).items()}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_statistics(path: Path, setup: str | None = None) -> GaussianStatistics:
    """Load statistics that `save_statistics` or clean-fid wrote; BlobexError if they are missing or damaged.

    clean-fid's files (mu and sigma, in mode "clean") name no setup, which is then `setup`, and no number of images.
    """
    try:
        check_packed(path, UNPACKED)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            values = _clean_fid(path, content, setup) if "mu" in content else _own(content)
    except BlobexError:
        raise
    except (OSError, KeyError, TypeError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise BlobexError(f"no Frechet statistics in {path}: run `dvc repro fid_stats` or `dvc pull` first") from error
    size = len(values.mean) if values.mean.ndim == 1 else 0
    if not size or values.covariance.shape != (size, size) or not is_file_name(values.setup):
        raise BlobexError(f"{path} holds no mean and covariance of a setup: run `dvc repro fid_stats` again")
    if not (values.mean.isfinite().all() and values.covariance.isfinite().all()):
        raise BlobexError(f"the statistics in {path} are not finite: run `dvc repro fid_stats` again")
    return values


def _own(content: Mapping[str, np.ndarray]) -> GaussianStatistics:
    return GaussianStatistics(
        mean=torch.from_numpy(content["mean"]),
        covariance=torch.from_numpy(content["covariance"]),
        images=int(content["images"]),
        network=str(content["network"]),
        setup=str(content["setup"]),
    )


def _clean_fid(path: Path, content: Mapping[str, np.ndarray], setup: str | None) -> GaussianStatistics:
    legacy = re.search(r"_(legacy_\w+?)_", path.name)  # clean-fid writes the mode into the name
    if legacy:
        raise BlobexError(f"{path} is of clean-fid's mode {legacy[1]}: give statistics of its mode clean")
    if setup is None:
        raise BlobexError(f"{path} is a file of clean-fid, which names no setup: use it where the setup is known")
    mean, covariance = (torch.from_numpy(content[name]).double() for name in ("mu", "sigma"))
    return GaussianStatistics(mean, covariance, None, "inception_clean", setup)
