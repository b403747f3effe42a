"""Data sets in memory or mapped into it, cropped and resized for a setup, and the order that training sees them in."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.bdd import (
    fit_boxes,
    list_pictures,
    read_decisions,
    read_detection,
    read_drivable,
    read_panoptic,
    read_semantic,
)
from blobex.datasets.cache import Cache, decode_cached
from blobex.datasets.folder import folder_images
from blobex.datasets.images import decode_image, fit, fit_mask
from blobex.datasets.manifest import data_root
from blobex.datasets.masks import load_bitmask, load_mask
from blobex.datasets.pictures import Pictures, Recipe, Size, decode
from blobex.scenes.labels import DETECTION, DRIVABLE, FIRST_THING, SEMANTIC
from blobex.scenes.render import Box

SKEWED = 0.02  # share by which the proportions of a label map may differ from its picture's
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
    """The unlabelled pictures of split "train" or "val", sorted: BDD100K's 100k, or a folder."""
    if params.data.source == "folder":
        return folder_images(data_root(params), split)
    return list_pictures(data_root(params), split)


def load_images(params: Params, setup_name: str, split: str) -> Tensor:
    """The pictures of `image_paths` as uint8 (N,3,H,W); those of a folder that cannot be read are left out.

    How many are left out is logged. BlobexError for missing or damaged files of BDD100K, and for an empty folder.
    """
    found = load_pictures(params, setup_name, image_paths(params, split), split)
    if found.skipped:
        count, reason = len(found.skipped), found.skipped[0].reason
        logging.getLogger(__name__).warning(
            "blobex: %d of %d files in %s (%s) are skipped; the first: %s",
            *(count, found.found, params.data.root, split, reason),
        )
    return found.images


def load_pictures(
    params: Params,
    setup_name: str,
    paths: Sequence[Path],
    part: str,
    limit: int | None = None,
    skip: bool | None = None,
) -> Pictures:
    """The first `limit` pictures (None: all) of a list of files, as uint8 (N,3,H,W).

    `part` names the list in the cache. With `skip`, files that cannot be read are left out, else they are a
    BlobexError; None: left out where `data.source` is a folder.
    """
    setup = params.setup(setup_name)

    def read(path: Path) -> tuple[np.ndarray, Size]:
        picture = decode_image(path)
        return fit(picture, setup.height, setup.width).transpose(2, 0, 1), picture.shape[:2]

    recipe = Recipe("pictures", (3, setup.height, setup.width), read)
    skip = params.data.source == "folder" if skip is None else skip
    return _decode(params, setup_name, paths, recipe, part, skip, limit)


def explained_paths(params: Params) -> list[Path]:
    """The pictures to explain, which no network is trained on: BDD-OIA's test split, or a folder's "val" part."""
    if params.data.source == "folder":
        return folder_images(data_root(params), "val")
    return [record.image for record in read_decisions(data_root(params), "test")]


def load_detection(params: Params, setup_name: str, split: str) -> DetectionSet:
    """Pictures of the 100k set that have both boxes and a drivable mask."""
    setup, root = params.setup(setup_name), _labelled_root(params)
    masks = {record.image: record.mask for record in read_drivable(root, split)}
    records = [record for record in read_detection(root, split) if record.image in masks]
    if not records:
        raise BlobexError(f"no picture of {root} has both boxes and a drivable mask: check the names of the files")
    part = f"detection {split}"
    pictures = load_pictures(params, setup_name, [record.image for record in records], part)
    boxes = [
        fit_boxes(record.boxes, size, setup.height, setup.width)
        for record, size in zip(records, pictures.sizes, strict=True)
    ]
    recipe = _label_maps("drivable", len(DRIVABLE), setup)
    drivable = _decode(params, setup_name, [masks[record.image] for record in records], recipe, part)
    _require_alike(pictures, drivable)
    return DetectionSet(pictures.images, box_rows(boxes), drivable.images)


def load_segmentation(params: Params, setup_name: str, split: str) -> SegmentationSet:
    """Pictures of the 10k set that have both a semantic and a panoptic mask."""
    setup, root = params.setup(setup_name), _labelled_root(params)
    bitmasks = {record.image: record.mask for record in read_panoptic(root, split)}
    records = [record for record in read_semantic(root, split) if record.image in bitmasks]
    if not records:
        raise BlobexError(f"no picture of {root} has both a semantic and a panoptic mask: check the names of the files")
    part = f"segmentation {split}"
    pictures = load_pictures(params, setup_name, [record.image for record in records], part)
    recipe = _label_maps("semantic", len(SEMANTIC), setup)
    semantic = _decode(params, setup_name, [record.mask for record in records], recipe, part)
    things = _decode(params, setup_name, [bitmasks[record.image] for record in records], _thing_maps(setup), part)
    _require_alike(pictures, semantic)
    _require_alike(pictures, things)
    return SegmentationSet(pictures.images, semantic.images, things.images)


def load_decisions(params: Params, setup_name: str, split: str, biased: bool = False) -> DecisionSet:
    """BDD-OIA's pictures, actions and reasons; `biased`: with the planted shortcut of the synthetic data."""
    records = read_decisions(_labelled_root(params), split, biased)
    pictures = load_pictures(params, setup_name, [record.image for record in records], f"decisions {split}")
    actions = torch.tensor([record.actions for record in records], dtype=torch.float32)
    return DecisionSet(
        pictures.images, actions, torch.tensor([record.reasons for record in records], dtype=torch.float32)
    )


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


def _labelled_root(params: Params) -> Path:
    if params.data.source != "bdd100k":
        raise BlobexError(f"data.source is {params.data.source}: its pictures have no labels, so set it to bdd100k")
    return data_root(params)


def _require_alike(pictures: Pictures, maps: Pictures) -> None:
    """BlobexError unless each label map has the proportions of its picture: else it would be cropped otherwise."""
    for path, picture, found in zip(maps.paths, pictures.sizes, maps.sizes, strict=True):
        product = picture[0] * found[1]
        if abs(product - picture[1] * found[0]) > SKEWED * product:
            raise BlobexError(
                f"{path} has {found[0]}x{found[1]} pixels but its picture {picture[0]}x{picture[1]}: get both again"
            )


def _decode(
    params: Params,
    setup_name: str,
    paths: Sequence[Path],
    recipe: Recipe,
    part: str,
    skip: bool = False,
    limit: int | None = None,
) -> Pictures:
    """The files at the setup's size, through the cache if there is one."""
    if limit is not None and limit >= len(paths):
        limit = None
    if params.data.cache is None:
        return decode(paths, recipe, skip, limit)
    slot = f"{Path(params.data.root).absolute()} {setup_name} {part} {recipe.name}"
    return decode_cached(paths, recipe, Cache(Path(params.data.cache), slot), skip, limit)


def _label_maps(name: str, categories: int, setup: ImageSize) -> Recipe:
    """Label maps (H,W) of numbers below `categories`, or 255."""

    def read(path: Path) -> tuple[np.ndarray, Size]:
        mask = load_mask(path, categories)
        return fit_mask(mask, setup.height, setup.width), mask.shape[:2]

    return Recipe(name, (setup.height, setup.width), read)


def _thing_maps(setup: ImageSize) -> Recipe:
    """The things of bitmasks (H,W), numbered from 1; crowds and the 256th thing on count as stuff."""

    def read(path: Path) -> tuple[np.ndarray, Size]:
        mask = load_bitmask(path)
        single = (mask.category >= FIRST_THING) & ~mask.crowd
        instance = fit_mask(np.where(single, mask.instance, 0), setup.height, setup.width)
        numbers, places = np.unique(instance, return_inverse=True)
        order = np.cumsum(numbers > 0) * (numbers > 0)
        things = np.where(order <= 255, order, 0).astype(np.uint8)[places.reshape(instance.shape)]
        return things, mask.category.shape[:2]

    return Recipe("things", (setup.height, setup.width), read)
