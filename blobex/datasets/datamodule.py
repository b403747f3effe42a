"""Data sets in memory, cropped and resized for a setup, and the order in which training sees them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config import Params, Setup
from blobex.datasets.bdd import (
    fit_boxes,
    load_bitmask,
    load_mask,
    read_decisions,
    read_detection,
    read_drivable,
    read_panoptic,
    read_semantic,
)
from blobex.datasets.folder import folder_images
from blobex.datasets.images import fit, fit_mask, list_images, load_image
from blobex.errors import BlobexError
from blobex.scenes.labels import DETECTION, DRIVABLE, FIRST_THING, SEMANTIC
from blobex.scenes.render import Box

T = TypeVar("T")
NO_BOX = -1  # category of the rows that pad a picture's boxes


@dataclass(frozen=True)
class DetectionSet:
    images: Tensor  # N,3,H,W uint8
    boxes: Tensor  # N,M,5 float32: category (NO_BOX: padding), x1, y1, x2, y2 in pixels
    drivable: Tensor  # N,H,W uint8: scenes.labels.DRIVABLE, 255 unknown


@dataclass(frozen=True)
class SegmentationSet:
    images: Tensor  # N,3,H,W uint8
    semantic: Tensor  # N,H,W uint8: scenes.labels.SEMANTIC, 255 unknown
    things: Tensor  # N,H,W uint8: 0 for stuff, then one number per thing


@dataclass(frozen=True)
class DecisionSet:
    images: Tensor  # N,3,H,W uint8
    actions: Tensor  # N,4 float32, 0 or 1: scenes.rules.ACTIONS
    reasons: Tensor  # N,21 float32, 0 or 1: scenes.rules.REASONS


def image_paths(params: Params, split: str) -> list[Path]:
    """The unlabelled pictures of split "train" or "val", in the order of `load_images`: BDD100K's 100k, or a folder."""
    root = Path(params.data.root)
    if params.data.source == "folder":
        return folder_images(root, split)
    return list_images(root / "bdd100k/images/100k" / split)


def load_images(params: Params, setup_name: str, split: str) -> Tensor:
    """The pictures of `image_paths` as uint8 (N,3,H,W). BlobexError for missing or damaged files."""
    return decode(image_paths(params, split), params.setup(setup_name))


def explained_paths(params: Params) -> list[Path]:
    """The pictures to explain, which no network is trained on: BDD-OIA's test split, or a folder's "val" part."""
    if params.data.source == "folder":
        return folder_images(Path(params.data.root), "val")
    return [record.image for record in read_decisions(params.data.root, "test")]


def load_detection(params: Params, setup_name: str, split: str) -> DetectionSet:
    """Pictures of the 100k set that have both boxes and a drivable mask."""
    setup, root = params.setup(setup_name), _labelled_root(params)
    masks = {record.image: record.mask for record in read_drivable(root, split)}
    records = [record for record in read_detection(root, split) if record.image in masks]
    if not records:
        raise BlobexError(f"no picture of {root} has both boxes and a drivable mask: check the names of the files")
    pictures, sizes = _decode_sized([record.image for record in records], setup)
    boxes = [
        fit_boxes(record.boxes, size, setup.height, setup.width) for record, size in zip(records, sizes, strict=True)
    ]
    drivable = _label_maps([masks[record.image] for record in records], len(DRIVABLE), setup)
    return DetectionSet(pictures, box_rows(boxes), drivable)


def load_segmentation(params: Params, setup_name: str, split: str) -> SegmentationSet:
    """Pictures of the 10k set that have both a semantic and a panoptic mask."""
    setup, root = params.setup(setup_name), _labelled_root(params)
    bitmasks = {record.image: record.mask for record in read_panoptic(root, split)}
    records = [record for record in read_semantic(root, split) if record.image in bitmasks]
    if not records:
        raise BlobexError(f"no picture of {root} has both a semantic and a panoptic mask: check the names of the files")
    semantic = _label_maps([record.mask for record in records], len(SEMANTIC), setup)
    things = _each(lambda path: _thing_map(path, setup), [bitmasks[record.image] for record in records])
    pictures = decode([record.image for record in records], setup)
    return SegmentationSet(pictures, semantic, torch.from_numpy(np.stack(list(things))))


def load_decisions(params: Params, setup_name: str, split: str, biased: bool = False) -> DecisionSet:
    """BDD-OIA's pictures, actions and reasons; `biased`: with the planted shortcut of the synthetic data."""
    records = read_decisions(_labelled_root(params), split, biased)
    images = decode([record.image for record in records], params.setup(setup_name))
    actions = torch.tensor([record.actions for record in records], dtype=torch.float32)
    return DecisionSet(images, actions, torch.tensor([record.reasons for record in records], dtype=torch.float32))


def decode(paths: Sequence[Path], setup: Setup) -> Tensor:
    """Picture files, each cropped and resized to the setup, as uint8 (N,3,H,W)."""
    return _decode_sized(paths, setup)[0]


def box_rows(boxes: Sequence[Sequence[Box]]) -> Tensor:
    """The boxes of N pictures as rows (N,M,5): category number, x1, y1, x2, y2; short rows are padded with NO_BOX."""
    rows = torch.zeros(len(boxes), max((len(some) for some in boxes), default=0), 5)
    rows[:, :, 0] = NO_BOX
    for row, some in zip(rows, boxes, strict=True):
        for place, box in enumerate(some):
            row[place] = torch.tensor([DETECTION.index(box.category), box.x1, box.y1, box.x2, box.y2])
    return rows


def batch_indices(step: int, length: int, batch_size: int, seed: int) -> Tensor:
    """The samples (batch_size,) of a training step, out of `length`.

    A pure function: each epoch is a permutation of its own (seed, epoch), so that no sample comes twice in an epoch.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    chosen = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(positions // length):
        order = np.random.default_rng([seed, int(epoch)]).permutation(length)
        inside = positions // length == epoch
        chosen[inside] = order[positions[inside] % length]
    return torch.from_numpy(chosen)


def checksum(*tensors: Tensor) -> int:
    """A number that differs when the data differ (CRC-32 of the bytes, in order)."""
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.detach().cpu().contiguous().numpy().data, total)
    return total


def _labelled_root(params: Params) -> str:
    if params.data.source != "bdd100k":
        raise BlobexError(f"data.source is {params.data.source}: its pictures have no labels, so set it to bdd100k")
    return params.data.root


def _decode_sized(paths: Sequence[Path], setup: Setup) -> tuple[Tensor, list[tuple[int, int]]]:
    """The pictures at the setup's size, and their (rows, columns) before."""

    def read(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        picture = load_image(path)
        return fit(picture, setup.height, setup.width), (picture.shape[0], picture.shape[1])

    pictures = np.empty((len(paths), 3, setup.height, setup.width), dtype=np.uint8)
    sizes = []
    for place, (picture, size) in enumerate(_each(read, paths)):
        pictures[place] = picture.transpose(2, 0, 1)
        sizes.append(size)
    return torch.from_numpy(pictures), sizes


def _label_maps(paths: Sequence[Path], categories: int, setup: Setup) -> Tensor:
    """Label maps (N,H,W) uint8 at the setup's size."""
    maps = _each(lambda path: fit_mask(load_mask(path, categories), setup.height, setup.width), paths)
    return torch.from_numpy(np.stack(list(maps)))


def _thing_map(path: Path, setup: Setup) -> np.ndarray:
    """The things of a bitmask (H,W) uint8, numbered from 1; crowds and the 256th thing on count as stuff."""
    mask = load_bitmask(path)
    single = (mask.category >= FIRST_THING) & ~mask.crowd
    instance = fit_mask(np.where(single, mask.instance, 0), setup.height, setup.width)
    numbers, places = np.unique(instance, return_inverse=True)
    order = np.cumsum(numbers > 0) * (numbers > 0)
    return np.where(order <= 255, order, 0).astype(np.uint8)[places.reshape(instance.shape)]


def _each(function: Callable[[Path], T], paths: Sequence[Path]) -> Iterator[T]:
    """`function` of each path, in order; several at a time, with a progress bar on a terminal."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from tqdm(pool.map(function, paths), total=len(paths), desc="reading", unit="file", disable=None)
