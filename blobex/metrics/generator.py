"""Distances between a saved generator's images and real ones, for the command `blobex fid`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from blobex.core.device import batch_pixels
from blobex.core.errors import BlobexError
from blobex.core.files import write_text
from blobex.datasets.decoding import Decoder, Size, collect
from blobex.datasets.images import decode_image, fit, list_images
from blobex.metrics.feature_sets import SUBSET_SIZE, kernel_distance, kernel_name
from blobex.metrics.frechet import (
    FeatureNetwork,
    GaussianAccumulator,
    GaussianStatistics,
    frechet_distance,
    frechet_name,
    load_features,
    load_statistics,
)
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, load_blobgan, sample_images
from blobex.networks.external import EXTERNAL

MOST = 10**7  # generated images
PIXELS = 2**16  # of a batch on the CPU: larger batches are slower


@dataclass(frozen=True)
class Sampling:
    """Choice of generated images. The batch size changes results by rounding errors only."""

    images: int
    seed: int = 0
    truncation: float = 0.0  # 0: no truncation; 1: the mean of w
    batch_size: int | None = None  # None: by the device

    def __post_init__(self) -> None:
        if self.images < 2:
            raise BlobexError(f"a Frechet distance needs two images or more, not {self.images}: raise -n")
        if self.images > MOST:
            raise BlobexError(f"{self.images} images are too many to measure: take {MOST:,} at most")
        if not 0 <= self.truncation <= 1:
            raise BlobexError(f"the truncation is {self.truncation}: it must be 0 (none) to 1 (only the mean)")
        if self.batch_size is not None and self.batch_size < 1:
            raise BlobexError(f"the batch size is {self.batch_size}: it must be 1 or more")


@dataclass(frozen=True)
class Reference:
    """Real images to compare with: their statistics, the network of these, and a folder for the kernel distance."""

    name: str  # of the file of statistics
    real: GaussianStatistics
    features: FeatureNetwork
    folder: Path | None = None


def load_generator(
    checkpoint: Path,
    statistics: Path,
    device: torch.device,
    network: str | None = None,
    folder: Path | None = None,
    external: Path = EXTERNAL,
) -> tuple[BlobGAN, Reference]:
    """Load the BlobGAN in the folder `checkpoint` and the statistics of the real images.

    The parser of <models>/blobgan/<setup> is in <models>/parser/<setup>. `network` is the feature network that the
    statistics must be of, or None for any. `folder` holds real images for the kernel distance. Raises BlobexError if
    something is missing, or the statistics are of another network, setup or parser.
    """
    if checkpoint.is_file():
        raise BlobexError(
            f"{checkpoint} is a file: run `blobex import {checkpoint} --as generator --setup SETUP`, "
            "and give the folder that it writes"
        )
    config = weights.read_config(checkpoint, "blobgan")
    setup = config.get("setup") or ("square" if config.get("aspect_ratio") == 1 else "rect")
    real = load_statistics(statistics, setup)
    if network not in (None, real.network):
        raise BlobexError(f"{statistics} is of {real.network} features, not of {network}: give those of one network")
    if config.get("setup", real.setup) != real.setup:
        raise BlobexError(
            f"{statistics} is of {real.setup} images but {checkpoint} of {config['setup']}: give those of one setup"
        )
    model = load_blobgan(checkpoint).to(device)
    parser = checkpoint.absolute().parent.parent / "parser" / real.setup
    if real.network == "parser":
        _check_parser(parser, model)
    features = load_features(real.network, parser, device, external)
    width = features(torch.zeros(1, 3, model.height, model.width, dtype=torch.uint8)).shape[1]
    if width != len(real.mean):
        raise BlobexError(
            f"{statistics} has {len(real.mean)} features an image but the {real.network} gives {width}: "
            "take the statistics again with `dvc repro fid_stats`"
        )
    return model, Reference(statistics.name, real, features, folder)


def measure_generator(model: BlobGAN, reference: Reference, sampling: Sampling) -> dict[str, Any]:
    """Compute the distances of generated images to real ones, by their names, with settings and numbers of images.

    The number of real images is None if their statistics do not tell it.

    Generated images are rounded to bytes, as they are when shown. With a folder there is a kernel distance, too; its
    images are cropped and resized as for training, and files that cannot be read are skipped and counted. Raises
    BlobexError if there are too few images, or a feature is not finite.
    """
    real, device = reference.real, model.mean_w.device
    pixels = batch_pixels(None if device.type == "cuda" else PIXELS, device)
    batch_size = sampling.batch_size or max(1, pixels // (model.height * model.width))
    known = _folder_features(reference, model, batch_size, sampling.images)
    accumulator, features = GaussianAccumulator(), list[Tensor]()
    batches = sample_images(model, sampling.images, batch_size, sampling.seed, sampling.truncation)
    with torch.no_grad(), tqdm(total=sampling.images, unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            values = reference.features(batch).cpu()
            accumulator.update(values)
            if known:
                features.append(values)
            bar.update(len(batch))
    generated = accumulator.compute(real.network, real.setup)
    measures = {
        frechet_name(real.network): frechet_distance(real, generated),
        "images": generated.images,
        "statistics": reference.name,
        "real_images": real.images,
        "network": real.network,
        "setup": real.setup,
        "seed": sampling.seed,
        "truncation": sampling.truncation,
    }
    return measures | (_kernel_measures(torch.cat(features), known, real.network, sampling.seed) if known else {})


def check_place(path: Path) -> None:
    """Raise a BlobexError if no file can be written at a path, before anything is measured."""
    if path.is_dir() or not next(folder for folder in path.absolute().parents if folder.exists()).is_dir():
        raise BlobexError(f"cannot write {path}: name a file in a folder")


def write_measures(path: Path, measures: Mapping[str, Any]) -> None:
    """Write measures as JSON, all or nothing; raise a BlobexError if that fails."""
    try:
        write_text(path, json.dumps(dict(measures), indent=2) + "\n")
    except OSError as error:
        raise BlobexError(f"cannot write {path}: {error}") from error


def _check_parser(folder: Path, model: BlobGAN) -> None:
    config = weights.read_config(folder, "parser")
    size = config.get("height"), config.get("width")
    if size != (model.height, model.width):
        raise BlobexError(
            f"the parser in {folder} is for {size[0]}x{size[1]} images but the generator makes "
            f"{model.height}x{model.width}: give the networks and statistics of one run"
        )


@dataclass(frozen=True)
class _FolderFeatures:
    features: Tensor  # N,D
    skipped: int  # files that cannot be read
    subset_size: int  # of the kernel distance: its default, or half of the smaller set if that is less


def _folder_features(reference: Reference, model: BlobGAN, batch_size: int, generated: int) -> _FolderFeatures | None:
    """Compute the features of the reference's folder, batch by batch; None without a folder."""
    if reference.folder is None:
        return None
    features, batch = list[Tensor](), list[Tensor]()

    def read(path: Path) -> tuple[np.ndarray, Size]:
        image = decode_image(path)
        return fit(image, model.height, model.width).transpose(2, 0, 1), image.shape[:2]

    def flush() -> None:
        features.append(reference.features(torch.stack(batch)).cpu())
        batch.clear()

    def keep(array: np.ndarray) -> None:
        batch.append(torch.tensor(array))
        if len(batch) == batch_size:
            flush()

    decoder = Decoder("pictures", (3, model.height, model.width), read)
    with torch.no_grad():
        outcome = collect(list_images(reference.folder), decoder, keep, skip=True, limit=None)
        if batch:
            flush()
    subset_size = min(SUBSET_SIZE, generated // 2, len(outcome.paths) // 2)
    if subset_size < 2:
        raise BlobexError(
            f"a kernel distance needs 4 images or more on either side, not {generated} and the {len(outcome.paths)} "
            f"that can be read in {reference.folder}"
        )
    return _FolderFeatures(torch.cat(features), len(outcome.skipped), subset_size)


def _kernel_measures(generated: Tensor, known: _FolderFeatures, network: str, seed: int) -> dict[str, Any]:
    distance = kernel_distance(generated, known.features, seed, subset_size=known.subset_size)
    name = kernel_name(network)
    return {
        name: distance.mean,
        f"{name}_deviation": distance.deviation,
        f"{name}_subset_size": distance.subset_size,
        f"{name}_pictures": len(known.features),
        f"{name}_skipped": known.skipped,
    }
