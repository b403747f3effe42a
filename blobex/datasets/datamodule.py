"""Data sets in memory or mapped into it, cropped and resized for a setup, and the order of training samples."""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets import bdd
from blobex.datasets.bdd import read_decisions
from blobex.datasets.bdd_files import load_bitmask, load_mask
from blobex.datasets.decoding import Cache, DecodedImages, Decoder, Size, decode, decode_cached
from blobex.datasets.images import decode_image, fit, fit_mask, folder_images
from blobex.datasets.manifest import data_root
from blobex.datasets.scene_files import draw_images
from blobex.scenes.labels import DETECTION, DRIVABLE, FIRST_THING, SEMANTIC
from blobex.scenes.render import Box
from blobex.scenes.rules import find_rule
from blobex.scenes.write import scene_of

MAX_SKEW = 0.02  # relative difference between the proportions of a label map and its image
NO_BOX = -1  # category of the rows that pad the boxes of an image


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


def image_paths(params: Params, split: str) -> list[Path]:
    """List the unlabelled images of split "train" or "val", sorted: BDD100K's 100k images, or those of a folder."""
    if params.data.source == "folder":
        return folder_images(data_root(params), split)
    return bdd.list_100k(data_root(params), split)


def explained_paths(params: Params) -> list[Path]:
    """List the images to explain, which no network is trained on: BDD-OIA's test split, or a folder's "val" split."""
    if params.data.source == "folder":
        return folder_images(data_root(params), "val")
    return [record.image for record in bdd.read_decisions(data_root(params), "test")]


def load_images(params: Params, setup_name: str, split: str) -> Tensor:
    """Load the images of `image_paths` as uint8 (N,3,H,W); unreadable files of a folder are skipped with a warning.

    Raises BlobexError if files of BDD100K are missing or damaged, or a folder is empty.
    """
    loaded = load_image_files(params, setup_name, image_paths(params, split), split)
    if loaded.skipped:
        count, reason = len(loaded.skipped), loaded.skipped[0].reason
        logging.getLogger(__name__).warning(
            "blobex: %d of %d files in %s (%s) are skipped; the first: %s",
            *(count, loaded.found, params.data.root, split, reason),
        )
    return loaded.images


def load_image_files(
    params: Params,
    setup_name: str,
    paths: Sequence[Path],
    part: str,
    limit: int | None = None,
    skip: bool | None = None,
) -> DecodedImages:
    """Load the first `limit` images (None: all) of a list of files as uint8 (N,3,H,W).

    Args:
        part: name of the list in the cache.
        skip: leave out files that cannot be read, instead of raising BlobexError; None: if `data.source` is a folder.
    """
    setup = params.setup(setup_name)

    def read(path: Path) -> tuple[np.ndarray, Size]:
        image = decode_image(path)
        return fit(image, setup.height, setup.width).transpose(2, 0, 1), image.shape[:2]

    decoder = Decoder("pictures", (3, setup.height, setup.width), read)
    skip = params.data.source == "folder" if skip is None else skip
    return _decode(params, setup_name, paths, decoder, part, skip, limit)


def load_detection(params: Params, setup_name: str, split: str) -> DetectionSet:
    """Load the 100k images that have both boxes and a drivable mask."""
    setup, root = params.setup(setup_name), _labelled_root(params)
    masks = {record.image: record.mask for record in bdd.read_drivable(root, split)}
    records = [record for record in bdd.read_detection(root, split) if record.image in masks]
    if not records:
        raise BlobexError(f"no image of {root} has both boxes and a drivable mask: check the names of the files")
    part, paths = f"detection {split}", [record.image for record in records]
    images = load_image_files(params, setup_name, paths, part)
    boxes = [
        bdd.fit_boxes(record.boxes, size, setup.height, setup.width)
        for record, size in zip(records, images.sizes, strict=True)
    ]
    decoder = _label_decoder("drivable", len(DRIVABLE), setup)
    drivable = _decode(params, setup_name, [masks[path] for path in paths], decoder, part)
    _require_same_proportions(images, drivable)
    return DetectionSet(images.images, box_rows(boxes), drivable.images)


def load_segmentation(params: Params, setup_name: str, split: str) -> SegmentationSet:
    """Load the 10k images that have both a semantic and a panoptic mask."""
    setup, root = params.setup(setup_name), _labelled_root(params)
    bitmasks = {record.image: record.mask for record in bdd.read_panoptic(root, split)}
    records = [record for record in bdd.read_semantic(root, split) if record.image in bitmasks]
    if not records:
        raise BlobexError(f"no image of {root} has both a semantic and a panoptic mask: check the names of the files")
    part, paths = f"segmentation {split}", [record.image for record in records]
    images = load_image_files(params, setup_name, paths, part)
    decoder = _label_decoder("semantic", len(SEMANTIC), setup)
    semantic = _decode(params, setup_name, [record.mask for record in records], decoder, part)
    things = _decode(params, setup_name, [bitmasks[path] for path in paths], _thing_decoder(setup), part)
    for maps in (semantic, things):
        _require_same_proportions(images, maps)
    return SegmentationSet(images.images, semantic.images, things.images)


def load_decisions(params: Params, setup_name: str, split: str, biased: bool = False) -> DecisionSet:
    """Load BDD-OIA's images and actions; with `biased`, those with a planted shortcut."""
    records = bdd.read_decisions(_labelled_root(params), split, biased)
    images = load_image_files(params, setup_name, [record.image for record in records], f"decisions {split}").images
    return DecisionSet(images, torch.tensor([record.actions for record in records], dtype=torch.float32))


def box_rows(boxes: Sequence[Sequence[Box]]) -> Tensor:
    """Return the boxes of N images as rows (N,M,5): category number, x1, y1, x2, y2, padded with NO_BOX."""
    rows = torch.zeros(len(boxes), max(map(len, boxes), default=0), 5)
    rows[:, :, 0] = NO_BOX
    for row, image_boxes in zip(rows, boxes, strict=True):
        for index, box in enumerate(image_boxes):
            row[index] = torch.tensor([DETECTION.index(box.category), box.x1, box.y1, box.x2, box.y2])
    return rows


def batch_indices(step: int, length: int, batch_size: int, seed: int) -> Tensor:
    """Return the indices (batch_size,) of the samples of a training step, out of `length`.

    Each epoch is a permutation drawn from (seed, epoch), so the result depends on nothing but the arguments and no
    sample occurs twice in an epoch.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    indices = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(positions // length):
        order = _order(seed, int(epoch), length)
        inside = positions // length == epoch
        indices[inside] = order[positions[inside] % length]
    return torch.from_numpy(indices)


@lru_cache(maxsize=4)  # a permutation of all samples takes longer than a step on a GPU
def _order(seed: int, epoch: int, length: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def checksum(*tensors: Tensor) -> int:
    """Return the CRC-32 of the bytes of tensors, in order."""
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.detach().cpu().contiguous().numpy().data, total)
    return total


def _labelled_root(params: Params) -> Path:
    if params.data.source != "bdd100k":
        raise BlobexError(f"data.source is {params.data.source}: its images have no labels, so set it to bdd100k")
    return data_root(params)


def _require_same_proportions(images: DecodedImages, maps: DecodedImages) -> None:
    """Raise BlobexError unless label maps have the proportions of their images, as both are cropped by these."""
    for path, image, label_map in zip(maps.paths, images.sizes, maps.sizes, strict=True):
        product = image[0] * label_map[1]
        if abs(product - image[1] * label_map[0]) > MAX_SKEW * product:
            raise BlobexError(
                f"{path} has {label_map[0]}x{label_map[1]} pixels but its image {image[0]}x{image[1]}: get both again"
            )


def _decode(
    params: Params,
    setup_name: str,
    paths: Sequence[Path],
    decoder: Decoder,
    part: str,
    skip: bool = False,
    limit: int | None = None,
) -> DecodedImages:
    """Decode files, through the cache if there is one; scenes that are drawn on demand are drawn now."""
    if limit is not None and limit >= len(paths):
        limit = None
    draw_images(Path(params.data.root), paths[:limit])
    if params.data.cache is None:
        return decode(paths, decoder, skip, limit)
    use = f"{Path(params.data.root).absolute()} {setup_name} {part} {decoder.name}"
    return decode_cached(paths, decoder, Cache(Path(params.data.cache), use), skip, limit)


def _label_decoder(name: str, categories: int, setup: ImageSize) -> Decoder:
    """Return the decoder of label maps (H,W) of numbers below `categories`, or 255."""

    def read(path: Path) -> tuple[np.ndarray, Size]:
        mask = load_mask(path, categories)
        return fit_mask(mask, setup.height, setup.width), mask.shape[:2]

    return Decoder(name, (setup.height, setup.width), read)


def _thing_decoder(setup: ImageSize) -> Decoder:
    """Return the decoder of bitmasks to thing numbers (H,W) from 1; crowds and the 256th thing on count as stuff, 0."""

    def read(path: Path) -> tuple[np.ndarray, Size]:
        mask = load_bitmask(path)
        single = (mask.category >= FIRST_THING) & ~mask.crowd
        instance = fit_mask(np.where(single, mask.instance, 0), setup.height, setup.width)
        return thing_numbers(instance), mask.category.shape[:2]

    return Decoder("things", (setup.height, setup.width), read)


def thing_numbers(instance: np.ndarray) -> np.ndarray:
    """Number the segments of a map (H,W), 0 for stuff, from 1 on: uint8; the 256th on counts as stuff.

    >>> thing_numbers(np.array([[0, 300], [7, 300]])).tolist()
    [[0, 2], [1, 2]]
    """
    numbers, inverse = np.unique(instance, return_inverse=True)
    order = np.cumsum(numbers > 0) * (numbers > 0)
    numbered: np.ndarray = np.where(order <= 255, order, 0).astype(np.uint8)[inverse.reshape(instance.shape)]
    return numbered


IN_FILES = ("plain", "biased")  # rules whose decisions are in the data set's files


def load_planted(params: Params, setup_name: str, split: str, rule: str) -> DecisionSet:
    """Load decisions with the actions that a rule allows; rules not in files need synthetic scenes (BlobexError)."""
    chosen = find_rule(rule)
    data = load_decisions(params, setup_name, split, biased=rule == "biased")
    if rule in IN_FILES:
        return data
    try:
        scenes = [scene_of(record.image) for record in read_decisions(data_root(params), split)]
    except BlobexError as error:
        raise BlobexError(f"rule {rule} needs synthetic scenes, so take {' or '.join(IN_FILES)}: {error}") from error
    actions = torch.tensor([chosen.actions(scene) for scene in scenes], dtype=torch.float32)
    return dataclasses.replace(data, actions=actions)
