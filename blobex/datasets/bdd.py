"""Readers of BDD100K and BDD-OIA as published; the synthetic data set has the same files.

A data set is a folder with `bdd100k/` (images, labels) and `bdd_oia/` (lastframe). Images may also lie in subfolders of
the published ones. Formats: BDD100K's documentation ("Label Format", "Data Download"); BDD-OIA: Xu et al., CVPR 2020,
and the README that comes with the data.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from blobex.core.errors import BlobexError, brief
from blobex.datasets import bdd_files as files
from blobex.datasets.bdd_files import DatasetPart, ImageFinder, missing_error, read_labels
from blobex.datasets.images import crop_box, list_images
from blobex.datasets.scene_files import draw_labels, images_of, scene_sets
from blobex.scenes.labels import DETECTION
from blobex.scenes.render import Box
from blobex.scenes.rules import ACTIONS, REASONS

TOLERATED = 0.01  # share of labels without an image; the loader published with BDD-OIA skips such labels, too
NAMED = 12  # unknown categories that a message names
LIGHTS = {"R": "red", "G": "green", "Y": "yellow", "red": "red", "green": "green", "yellow": "yellow"}
NAMES_2018 = {"person": "pedestrian", "bike": "bicycle", "motor": "motorcycle"}  # in BDD100K's first release
NO_OBJECTS = ("lane", "drivable area")  # lines and areas among the objects of that release
MALFORMED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)  # of JSON of another form
RIGHT = ACTIONS.index("right")
LEFT_OBSTACLE = REASONS.index("no left: obstacles on the left lane")


@dataclass(frozen=True)
class Record:
    image: Path


@dataclass(frozen=True)
class DetectionRecord(Record):
    boxes: tuple[Box, ...]
    weather: str  # BDD100K's words, such as "rainy"
    time: str  # such as "dawn/dusk"


@dataclass(frozen=True)
class MaskRecord(Record):
    mask: Path  # for `masks.load_mask` or `masks.load_bitmask`


@dataclass(frozen=True)
class DecisionRecord(Record):
    actions: tuple[bool, ...]  # scenes.rules.ACTIONS
    reasons: tuple[bool, ...]  # scenes.rules.REASONS


R = TypeVar("R", bound=Record)


def list_100k(root: str | Path, split: str) -> list[Path]:
    """List the 100k images of split "train" or "val", labelled or not. Raises BlobexError if there are none."""
    root = _checked_root(root, split, ("train", "val"))
    planned = images_of(root, f"detection_{split}")
    if planned is not None:
        return planned
    folder = files.IMAGES_100K.locate(root, split)
    if not files.is_present(folder):
        raise missing_error(root, folder, files.IMAGES_100K.meaning)
    return list_images(folder)


def read_detection(root: str | Path, split: str) -> list[DetectionRecord]:
    """Read the boxes of the 100k images of a split; the names of 2018 are mapped to those of 2020.

    Labels of other categories are left out, with a warning that counts and names them. Raises BlobexError if files are
    missing or malformed, or no label has a category of BDD100K.
    """
    root = _checked_root(root, split, ("train", "val"))
    draw_labels(root, f"detection_{split}")
    path = files.DETECTION_LABELS.locate(root, split)
    frames = read_labels(root, path, files.DETECTION_LABELS)
    finder = ImageFinder(files.IMAGES_100K.locate(root, split))
    try:
        records = [_detection(frame, finder) for frame in _list(frames)]
        categories = Counter(category for frame in frames for category in _categories(frame))
    except MALFORMED as error:
        raise BlobexError(f"{path} is not a list of Scalabel frames ({brief(repr(error))}): get it again") from error
    _report_unknown(path, categories)
    return _with_images(root, records, path)


def read_drivable(root: str | Path, split: str) -> list[MaskRecord]:
    """List 100k images and their drivable masks (`load_mask`, 3 categories). Raises BlobexError if any are missing."""
    return _masks(root, split, files.IMAGES_100K, files.DRIVABLE_MASKS)


def read_semantic(root: str | Path, split: str) -> list[MaskRecord]:
    """List 10k images and their semantic masks (`load_mask`, 19 categories). Raises BlobexError if any are missing."""
    return _masks(root, split, files.IMAGES_10K, files.SEMANTIC_MASKS)


def read_panoptic(root: str | Path, split: str) -> list[MaskRecord]:
    """List 10k images and their panoptic bitmasks (`load_bitmask`). Raises BlobexError if any are missing."""
    return _masks(root, split, files.IMAGES_10K, files.PANOPTIC_MASKS)


def read_decisions(root: str | Path, split: str, biased: bool = False) -> list[DecisionRecord]:
    """Read the actions and reasons of BDD-OIA, split "train", "val" or "test".

    Images whose fifth action, "confuse", is set are left out, as in the published loader. With `biased`, the actions
    have a planted shortcut: no right while something stands in the left lane. The synthetic data set has a file of such
    actions; for other data they are derived from the actions and the reasons. Raises BlobexError if files are missing
    or malformed.
    """
    root = _checked_root(root, split, ("train", "val", "test"))
    draw_labels(root, f"decision_{split}")
    action_path, reason_path = (part.locate(root, split) for part in (files.OIA_ACTIONS, files.OIA_REASONS))
    planted_path = action_path.with_name(action_path.name.replace("_actions", "_biased_actions"))
    planted = biased and planted_path.exists()
    action_path = planted_path if planted else action_path
    content = read_labels(root, action_path, files.OIA_ACTIONS)
    reasons = _reasons(reason_path, read_labels(root, reason_path, files.OIA_REASONS))
    finder = ImageFinder(files.OIA_IMAGES.locate(root, "all"), root / "bdd_oia")
    records = []
    try:
        for image in content["images"]:
            if image["id"] < 0:  # Python would count it from the end
                raise ValueError(f"the id {image['id']}")
            # As in the published loader, an image's id is the position of its annotation.
            category = content["annotations"][image["id"]]["category"]
            if len(category) > len(ACTIONS) and category[len(ACTIONS)]:
                continue
            name = image["file_name"]
            actions = _bits(category[: len(ACTIONS)], len(ACTIONS))
            if biased and not planted:
                actions = (*actions[:RIGHT], actions[RIGHT] and not reasons[name][LEFT_OBSTACLE])
            records.append(DecisionRecord(finder.find(name), actions, reasons[name]))
    except MALFORMED as error:
        raise BlobexError(
            f"{action_path} does not hold images and annotations with reasons ({brief(repr(error))}): get it again"
        ) from error
    return _with_images(root, sorted(records, key=lambda record: record.image), action_path)


def fit_boxes(boxes: Sequence[Box], size: tuple[int, int], height: int, width: int) -> tuple[Box, ...]:
    """Transform the boxes of an image of `size` (rows, columns) as `images.fit` transforms it to height x width.

    Boxes that the crop cuts are marked truncated; those of which less than one pixel either way is left are dropped.
    """
    left, top, right, bottom = crop_box(*size, height, width)
    across, down = width / (right - left), height / (bottom - top)
    fitted = []
    for box in boxes:
        x1, x2 = (min(max(x, left), right) for x in (box.x1, box.x2))
        y1, y2 = (min(max(y, top), bottom) for y in (box.y1, box.y2))
        cut = (x1, y1, x2, y2) != (box.x1, box.y1, box.x2, box.y2)
        x1, y1, x2, y2 = (x1 - left) * across, (y1 - top) * down, (x2 - left) * across, (y2 - top) * down
        if x2 - x1 >= 1 and y2 - y1 >= 1:
            fitted.append(replace(box, x1=x1, y1=y1, x2=x2, y2=y2, truncated=box.truncated or cut))
    return tuple(fitted)


def _checked_root(root: str | Path, split: str, splits: tuple[str, ...]) -> Path:
    if split not in splits:
        raise BlobexError(f"there is no split {split!r}: choose one of {', '.join(splits)}")
    return Path(root)


def _detection(frame: dict[str, Any], finder: ImageFinder) -> DetectionRecord:
    labels, attributes = frame.get("labels") or [], frame.get("attributes") or {}
    named = zip(labels, _categories(frame), strict=True)
    boxes = tuple(_box(label, name, number) for number, (label, name) in enumerate(named, 1) if name in DETECTION)
    weather, time = (attributes.get(name, "undefined") for name in ("weather", "timeofday"))
    return DetectionRecord(finder.find(frame["name"]), boxes, weather, time)


def _categories(frame: dict[str, Any]) -> list[str]:
    """Return the categories of a frame's labels, in the names of 2020."""
    names = [str(label["category"]) for label in frame.get("labels") or []]
    return [NAMES_2018.get(name, name) for name in names]


def _report_unknown(path: Path, categories: Mapping[str, int]) -> None:
    """Warn of labels that are left out, since a parser learns what they show as background."""
    unknown = {name: count for name, count in categories.items() if name not in (*DETECTION, *NO_OBJECTS)}
    if not unknown:
        return
    names = ", ".join(f"{brief(name, 40)} ({count:,})" for name, count in sorted(unknown.items())[:NAMED])
    names += ", ..." if len(unknown) > NAMED else ""
    if not set(categories) & set(DETECTION):
        raise BlobexError(f"{path} has no label of {', '.join(DETECTION)}, but {names}: rename its categories")
    logging.getLogger(__name__).warning(
        "blobex: %d of %d labels in %s are left out, as their categories are unknown: %s",
        *(sum(unknown.values()), sum(categories.values()), path, names),
    )


def _box(label: dict[str, Any], category: str, number: int) -> Box:
    attributes, corners, name = label.get("attributes") or {}, label["box2d"], str(label.get("id", ""))
    edges = {side: float(corners[side]) for side in ("x1", "y1", "x2", "y2")}
    if not all(math.isfinite(edge) for edge in edges.values()):
        raise ValueError(f"the box {edges}")
    return Box(
        category=category,
        **edges,
        instance=int(name) if name.isdecimal() else number,
        occluded=bool(attributes.get("occluded", False)),
        truncated=bool(attributes.get("truncated", False)),
        light=LIGHTS.get(str(attributes.get("trafficLightColor")), "none"),
    )


def _reasons(path: Path, content: object) -> dict[str, tuple[bool, ...]]:
    try:
        return {item["file_name"]: _bits(item["reason"], len(REASONS)) for item in _list(content)}
    except MALFORMED as error:
        raise BlobexError(
            f"{path} is not a list of file_name and reason ({brief(repr(error))}): get it again"
        ) from error


def _masks(root: str | Path, split: str, images: DatasetPart, masks: DatasetPart) -> list[MaskRecord]:
    root = _checked_root(root, split, ("train", "val"))
    draw_labels(root, f"{'detection' if images is files.IMAGES_100K else 'segmentation'}_{split}")
    folder = masks.locate(root, split)
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        raise missing_error(root, folder, f"{masks.meaning}, one PNG per image")
    finder = ImageFinder(images.locate(root, split))
    return _with_images(root, [MaskRecord(finder.find(f"{path.stem}.jpg"), path) for path in paths], folder)


def _with_images(root: Path, records: list[R], labels: Path) -> list[R]:
    """Drop the few records whose image is missing; more than that is an error."""
    if not records:
        raise BlobexError(f"{labels} names no images: it should list a whole split")
    if scene_sets(root):
        return records  # images are drawn when they are read
    missing = [record.image for record in records if not record.image.is_file()]
    if len(missing) > TOLERATED * len(records):
        raise missing_error(root, missing[0], f"an image that {labels} names, as do {len(missing) - 1} more images")
    absent = set(missing)
    return [record for record in records if record.image not in absent]


def _list(content: object) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError(f"a {type(content).__name__} instead of a list")
    return content


def _bits(values: Sequence[Any], count: int) -> tuple[bool, ...]:
    if len(values) != count or any(value not in (0, 1) for value in values):
        raise ValueError(f"not {count} zeros and ones: {values}")
    return tuple(bool(value) for value in values)
