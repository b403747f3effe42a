"""How near a saved generator's pictures are to real ones: the `blobex fid` command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from blobex.core.device import batch_pixels
from blobex.core.errors import BlobexError
from blobex.core.files import whole_file
from blobex.datasets.decoding import Decoder, Size, collect
from blobex.datasets.images import decode_image, fit, list_images
from blobex.metrics.frechet import (
    FeatureNetwork,
    GaussianAccumulator,
    GaussianStatistics,
    frechet_distance,
    frechet_name,
    load_features,
    load_statistics,
)
from blobex.metrics.kernel import SUBSET_SIZE, kernel_distance, kernel_name
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, load_blobgan, sample_pictures
from blobex.networks.external import EXTERNAL

MOST = 10**7  # pictures that are generated
PIXELS = 2**16  # of a batch on the processor: larger ones were slower (measured)


@dataclass(frozen=True)
class Sampling:
    """Which pictures of a generator are measured; how many at once changes them by no more than rounding."""

    images: int
    seed: int = 0
    truncation: float = 0.0  # 0: w as it is; 1: the mean of w
    batch_size: int | None = None  # None: what suits the device

    def __post_init__(self) -> None:
        if self.images < 2:
            raise BlobexError(f"a Frechet distance needs two pictures or more, not {self.images}: raise -n")
        if self.images > MOST:
            raise BlobexError(f"{self.images} pictures are too many to measure: take {MOST:,} at the most")
        if not 0 <= self.truncation <= 1:
            raise BlobexError(f"the truncation is {self.truncation}: it must be 0 (none) to 1 (only the mean)")
        if self.batch_size is not None and self.batch_size < 1:
            raise BlobexError(f"the batch size is {self.batch_size}: it must be 1 or more")


@dataclass(frozen=True)
class Yardstick:
    """What a generator is held against. The three belong together."""

    real: GaussianStatistics
    features: FeatureNetwork
    pictures: Path | None = None  # a folder of real pictures for the kernel distance


def load_measured(
    checkpoint: Path,
    statistics: Path,
    device: torch.device,
    network: str | None = None,
    pictures: Path | None = None,
    external: Path = EXTERNAL,
) -> tuple[BlobGAN, Yardstick]:
    """The BlobGAN saved in `checkpoint`, and what to hold it against: saved statistics and their feature network.

    A parser stands where the stages put it: in <models>/parser/<setup> for a checkpoint <models>/blobgan/<setup>.
    BlobexError: something is missing, or the statistics are of another network (than `network`, if given), setup or
    parser.
    """
    if checkpoint.is_file():
        raise BlobexError(
            f"{checkpoint} is a file: run `blobex import {checkpoint} --as generator --setup SETUP`, "
            "and give the folder that it writes"
        )
    real, saved = load_statistics(statistics), weights.read_config(checkpoint, "blobgan")
    if network not in (None, real.network):
        raise BlobexError(f"{statistics} is of {real.network} features, not of {network}: give those of one network")
    if saved.get("setup", real.setup) != real.setup:
        raise BlobexError(
            f"{statistics} is of {real.setup} pictures but {checkpoint} of {saved['setup']}: give those of one setup"
        )
    model = load_blobgan(checkpoint).to(device)
    parser = checkpoint.absolute().parent.parent / "parser" / real.setup
    if real.network == "parser":
        _check_parser(parser, model)
    features = load_features(real.network, parser, device, external)
    width = features(torch.zeros(1, 3, model.height, model.width, dtype=torch.uint8)).shape[1]
    if width != len(real.mean):
        raise BlobexError(
            f"{statistics} has {len(real.mean)} features a picture but the {real.network} gives {width}: "
            "take the statistics again with `dvc repro fid_stats`"
        )
    return model, Yardstick(real, features, pictures)


def measure_generator(model: BlobGAN, yardstick: Yardstick, sampling: Sampling) -> dict[str, Any]:
    """Distances by name, and what they were taken over; all pictures count, rounded to bytes as they are shown.

    The kernel distance takes the folder's pictures, cropped and resized as for training; what cannot be read is left
    out and counted. BlobexError if there are too few, or some features are not finite.
    """
    real, device = yardstick.real, model.mean_w.device
    pixels = batch_pixels(None if device.type == "cuda" else PIXELS, device)
    batch_size = sampling.batch_size or max(1, pixels // (model.height * model.width))
    known = _read_pictures(yardstick, model, batch_size, sampling.images) if yardstick.pictures else None
    accumulator = GaussianAccumulator()
    kept: list[Tensor] = []
    batches = sample_pictures(model, sampling.images, batch_size, sampling.seed, sampling.truncation)
    with torch.no_grad(), tqdm(total=sampling.images, unit="picture", disable=None, leave=False) as bar:
        for batch in batches:
            features = yardstick.features(batch).cpu()
            accumulator.update(features)
            if known:
                kept.append(features)
            bar.update(len(batch))
    generated = accumulator.compute(real.network, real.setup)
    measures = {
        frechet_name(real.network): frechet_distance(real, generated),
        "images": generated.images,
        "real_images": real.images,
        "network": real.network,
        "setup": real.setup,
        "seed": sampling.seed,
        "truncation": sampling.truncation,
    }
    return measures | (_kernel_measures(torch.cat(kept), known, real.network, sampling.seed) if known else {})


def check_place(path: Path) -> None:
    """BlobexError if no file can be written there; what is measured for hours should not be lost."""
    if path.is_dir() or not next(folder for folder in path.absolute().parents if folder.exists()).is_dir():
        raise BlobexError(f"cannot write {path}: name a file in a folder")


def write_measures(path: Path, measures: Mapping[str, Any]) -> None:
    """Write as JSON, whole or not at all; BlobexError if the file cannot be written."""
    try:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(dict(measures), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise BlobexError(f"cannot write {path}: {error}") from error


def _check_parser(folder: Path, model: BlobGAN) -> None:
    saved = weights.read_config(folder, "parser")
    found = saved.get("height"), saved.get("width")
    if found != (model.height, model.width):
        raise BlobexError(
            f"the parser in {folder} is for {found[0]}x{found[1]} pictures but the generator makes "
            f"{model.height}x{model.width}: give the networks and statistics of one run"
        )


@dataclass(frozen=True)
class _Pictures:
    """What is known of a folder of real pictures."""

    features: Tensor  # N,D
    skipped: int  # files that cannot be read
    subset_size: int  # of the kernel distance: its usual one, or half the smaller set where that is less


def _read_pictures(yardstick: Yardstick, model: BlobGAN, batch_size: int, images: int) -> _Pictures:
    """No more than a batch is in memory. BlobexError if there are too few pictures to compare with `images` others."""
    found: list[Tensor] = []
    batch: list[Tensor] = []

    def read(path: Path) -> tuple[np.ndarray, Size]:
        picture = decode_image(path)
        return fit(picture, model.height, model.width).transpose(2, 0, 1), picture.shape[:2]

    def measure() -> None:
        found.append(yardstick.features(torch.stack(batch)).cpu())
        batch.clear()

    def keep(array: np.ndarray) -> None:
        batch.append(torch.tensor(array))
        if len(batch) == batch_size:
            measure()

    folder = cast(Path, yardstick.pictures)
    decoder = Decoder("pictures", (3, model.height, model.width), read)
    with torch.no_grad():
        outcome = collect(list_images(folder), decoder, keep, skip=True, limit=None)
        if batch:
            measure()
    subset_size = min(SUBSET_SIZE, images // 2, len(outcome.paths) // 2)
    if subset_size < 2:
        raise BlobexError(
            f"a kernel distance needs 4 pictures or more on either side, not {images} and the {len(outcome.paths)} "
            f"that can be read in {folder}"
        )
    return _Pictures(torch.cat(found), len(outcome.skipped), subset_size)


def _kernel_measures(generated: Tensor, known: _Pictures, network: str, seed: int) -> dict[str, Any]:
    distance, name = (
        kernel_distance(generated, known.features, seed, subset_size=known.subset_size),
        kernel_name(network),
    )
    return {
        name: distance.mean,
        f"{name}_deviation": distance.deviation,
        f"{name}_subset_size": distance.subset_size,
        f"{name}_pictures": len(known.features),
        f"{name}_skipped": known.skipped,
    }
