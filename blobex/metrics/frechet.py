"""Frechet distance between two sets of pictures (Heusel et al., NeurIPS 2017), in float64."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from blobex.config.value_types import is_file_name
from blobex.core.errors import BlobexError
from blobex.core.files import check_packed, whole_file
from blobex.datasets.images import to_float
from blobex.networks.external import EXTERNAL, FILES, require
from blobex.networks.parser import load_parser

FeatureNetwork = Callable[[Tensor], Tensor]  # pictures (N,3,H,W) uint8 to features (N,D)
INCEPTION_SIZE = 299


@dataclass(frozen=True)
class GaussianStatistics:
    """Mean and covariance of the features of a set of pictures, and where they come from."""

    mean: Tensor  # D float64
    covariance: Tensor  # D,D float64, unbiased
    images: int
    network: str  # of the features: "parser", "inception" or "inception_clean"
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
    """The statistics of uint8 pictures (N,3,H,W), given in batches of any size.

    >>> batches = [torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 2, dtype=torch.uint8)]
    >>> statistics(batches, lambda pictures: pictures.double().mean((2, 3)), "parser", "square").mean.tolist()
    [1.0, 1.0, 1.0]
    """
    accumulator = GaussianAccumulator()
    with torch.no_grad():
        for batch in batches:
            accumulator.update(features(batch))
    return accumulator.compute(network, setup)


def gaussian(features: Tensor, network: str, setup: str) -> GaussianStatistics:
    """The statistics of features (N,D).

    >>> gaussian(torch.tensor([[0.0], [2.0]]), "parser", "rect").covariance.tolist()
    [[2.0]]
    """
    accumulator = GaussianAccumulator()
    accumulator.update(features)
    return accumulator.compute(network, setup)


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau, 1982), not below 0.

    The trace of the root is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric.
    BlobexError if the features are of different networks or setups.

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
    """What a Frechet distance of this feature network is called: only Inception's is the FID.

    >>> frechet_name("inception_clean"), frechet_name("parser")
    ('fid_clean', 'fd_parser')
    """
    return network.replace("inception", "fid") if network in INCEPTION_RESIZES else f"fd_{network}"


def save_statistics(path: Path, values: GaussianStatistics) -> None:
    """Write the statistics as .npz; the file appears whole or not at all."""
    arrays = {name: np.asarray(value) for name, value in vars(values).items()}
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_statistics(path: Path) -> GaussianStatistics:
    """Statistics that `save_statistics` wrote. BlobexError if they are missing or damaged."""
    try:
        check_packed(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            found = GaussianStatistics(
                mean=torch.from_numpy(content["mean"]),
                covariance=torch.from_numpy(content["covariance"]),
                images=int(content["images"]),
                network=str(content["network"]),
                setup=str(content["setup"]),
            )
    except (OSError, KeyError, TypeError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise BlobexError(f"no Frechet statistics in {path}: run `dvc repro fid_stats` or `dvc pull` first") from error
    width = len(found.mean) if found.mean.ndim == 1 else 0
    if not width or found.covariance.shape != (width, width) or not is_file_name(found.setup):
        raise BlobexError(f"{path} holds no mean and covariance of a setup: run `dvc repro fid_stats` again")
    if not (found.mean.isfinite().all() and found.covariance.isfinite().all()):
        raise BlobexError(f"the statistics in {path} are not finite: run `dvc repro fid_stats` again")
    return found


def load_features(network: str, parser_folder: Path, device: torch.device, external: Path = EXTERNAL) -> FeatureNetwork:
    """The feature network "parser" (saved in `parser_folder`), "inception" or "inception_clean".

    The latter two are one network, whose pictures are resized on the device or as clean-fid does it; its file comes
    from the folder `external`, or torch's downloads. BlobexError if the network is missing; its message says which file
    belongs where.
    """
    if network == "parser":
        parser = load_parser(parser_folder).to(device)
        return lambda images: parser.pooled_features(to_float(images.to(device)))
    if network in INCEPTION_RESIZES:
        return inception_features(require("inception", external), device, INCEPTION_RESIZES[network])
    raise BlobexError(f"unknown feature network {network!r}: choose parser, {' or '.join(INCEPTION_RESIZES)}")


def inception_features(path: Path, device: torch.device, resize: Callable[[Tensor], Tensor]) -> FeatureNetwork:
    """Inception's pooled features (N,2048) of pictures that `resize` makes 299x299, from 0 to 255.

    BlobexError if `path` is not the TorchScript file that clean-fid (Parmar et al., CVPR 2022) uses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # this file exists in no other format than TorchScript
            layers = torch.jit.load(str(path), map_location=device).eval().layers
    except (RuntimeError, AttributeError) as error:
        raise BlobexError(f"{path} is damaged or another network: put {FILES['inception'].content} there") from error

    def features(images: Tensor) -> Tensor:
        x = resize(images.to(device)).to(device)
        return layers((x - 128) / 128).flatten(1)

    return features


def resize_clean(images: Tensor, size: int = INCEPTION_SIZE) -> Tensor:
    """uint8 (N,3,H,W) to float (N,3,size,size), 0 to 255, on the CPU: PIL's bicubic filter in float, as clean-fid."""
    channels = images.cpu().flatten(0, 1).numpy().astype(np.float32)
    resized = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in channels]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255).unflatten(0, (len(images), 3))


def resize_fast(images: Tensor, size: int = INCEPTION_SIZE) -> Tensor:
    """As `resize_clean`, but on the device of the pictures."""
    resized = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 255)


# The name of Inception's features by how pictures are resized for it.
INCEPTION_RESIZES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "inception": resize_fast,
    "inception_clean": resize_clean,
}
