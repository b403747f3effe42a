"""Read BDD100K and BDD-OIA as they are published; the synthetic data set has the same files.

`root` holds `bdd100k/` (images, labels) and `bdd_oia/` (lastframe). Formats: BDD100K's documentation ("Label Format",
"Data Download"); BDD-OIA: Xu et al., CVPR 2020, and the README that comes with the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from blobex.datasets.images import crop_box
from blobex.errors import BlobexError
from blobex.scenes.labels import DETECTION, PANOPTIC
from blobex.scenes.render import Box
from blobex.scenes.rules import ACTIONS, REASONS

TOLERATED = 0.01  # share of labels whose picture may be missing; the loader published with BDD-OIA skips such, too
LIGHTS = {"R": "red", "G": "green", "Y": "yellow", "red": "red", "green": "green", "yellow": "yellow"}
DECISION_FOLDERS = ("bdd_oia/lastframe/gt_4a_21r", "bdd_oia/lastframe")  # where the label files may lie


RIGHT = ACTIONS.index("right")
LEFT_OBSTACLE = REASONS.index("no left: obstacles on the left lane")


@dataclass(frozen=True)
class Detection:
    image: Path
    boxes: tuple[Box, ...]
    weather: str  # BDD100K's words, such as "rainy"
    time: str  # such as "dawn/dusk"


@dataclass(frozen=True)
class Masked:
    image: Path
    mask: Path  # for `load_mask` or `load_bitmask`


@dataclass(frozen=True)
class Decision:
    image: Path
    actions: tuple[bool, ...]  # scenes.rules.ACTIONS
    reasons: tuple[bool, ...]  # scenes.rules.REASONS


@dataclass(frozen=True)
class Panoptic:
    """A decoded bitmask; all arrays are (H,W)."""

    category: np.ndarray  # uint8: scenes.labels.PANOPTIC
    instance: np.ndarray  # uint16: one number per segment
    truncated: np.ndarray  # bool
    occluded: np.ndarray  # bool
    crowd: np.ndarray  # bool
    ignore: np.ndarray  # bool


class _Pictured(Protocol):
    @property
    def image(self) -> Path: ...


P = TypeVar("P", bound=_Pictured)


def read_detection(root: str | Path, split: str) -> list[Detection]:
    """Boxes of the 100k pictures, split "train" or "val". Boxes outside the ten detection categories are left out.

    Raises BlobexError for missing or malformed files.
    """
    base = _base(root, split, ("train", "val"))
    path = base / "bdd100k/labels/det_20" / f"det_{split}.json"
    frames = _read_json(path, "the Detection 2020 labels of BDD100K")
    try:
        records = [_detection(frame, base / "bdd100k/images/100k" / split) for frame in _list(frames)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BlobexError(f"{path} is not a list of Scalabel frames ({error!r}): download it again") from error
    return _with_pictures(records, path)


def read_drivable(root: str | Path, split: str) -> list[Masked]:
    """100k pictures and their drivable masks (`load_mask` with 3 categories). Raises BlobexError for missing parts."""
    return _masked(root, split, "100k", "drivable/masks", "the drivable area masks of BDD100K")


def read_semantic(root: str | Path, split: str) -> list[Masked]:
    """10k pictures and their semantic masks (`load_mask` with 19 categories). Raises BlobexError for missing parts."""
    return _masked(root, split, "10k", "sem_seg/masks", "the semantic segmentation masks of BDD100K")


def read_panoptic(root: str | Path, split: str) -> list[Masked]:
    """10k pictures and their panoptic bitmasks (`load_bitmask`). Raises BlobexError for missing parts."""
    return _masked(root, split, "10k", "pan_seg/bitmasks", "the panoptic bitmasks of BDD100K")


def read_decisions(root: str | Path, split: str, biased: bool = False) -> list[Decision]:
    """Actions and reasons of BDD-OIA, split "train", "val" or "test".

    With `biased`, the actions have a planted shortcut: no right while something stands in the left lane. They are the
    synthetic data set's own, or, where there are none, follow from the actions and the reasons. Pictures whose fifth
    action, "confuse", is set are left out, as in the published loader. Raises BlobexError for missing or malformed
    files.
    """
    base = _base(root, split, ("train", "val", "test"))
    stem = f"{split}_25k_images"
    action_path, planted_path = _find(base, f"{stem}_actions.json"), _find(base, f"{stem}_biased_actions.json")
    planted = biased and planted_path.exists()
    action_path = planted_path if planted else action_path
    reason_path = _find(base, f"{stem}_reasons.json")
    content = _read_json(action_path, "the actions of BDD-OIA")
    why = _read_json(reason_path, "the reasons of BDD-OIA")
    try:
        reasons = {item["file_name"]: _bits(item["reason"], len(REASONS)) for item in _list(why)}
    except (KeyError, TypeError, ValueError) as error:
        raise BlobexError(
            f"{reason_path} is not a list of file_name and reason ({error!r}): download it again"
        ) from error
    records = []
    try:
        for image in content["images"]:
            # As in the published loader, an image's id is the position of its annotation.
            category = content["annotations"][image["id"]]["category"]
            if len(category) > len(ACTIONS) and category[len(ACTIONS)]:
                continue
            name = image["file_name"]
            actions = _bits(category[: len(ACTIONS)], len(ACTIONS))
            if biased and not planted:
                actions = (*actions[:RIGHT], actions[RIGHT] and not reasons[name][LEFT_OBSTACLE])
            records.append(Decision(base / "bdd_oia/lastframe/data" / name, actions, reasons[name]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise BlobexError(
            f"{action_path} does not hold images and annotations with reasons ({error!r}): get it again"
        ) from error
    return _with_pictures(sorted(records, key=lambda record: record.image), action_path)


def load_mask(path: str | Path, categories: int) -> np.ndarray:
    """A label map (H,W) uint8 of numbers below `categories`, or 255: unknown. Raises BlobexError for anything else."""
    mask = _decode(path, ("L", "P"), "one number a pixel")
    wrong = (mask >= categories) & (mask != 255)
    if wrong.any():
        raise BlobexError(
            f"{path} holds the label {mask[wrong][0]}: there should be only 0 to {categories - 1}, and 255"
        )
    return mask


def load_bitmask(path: str | Path) -> Panoptic:
    """Decode an RGBA bitmask: R category; G bits 3 to 0 truncated, occluded, crowd, ignore; 256 B + A segment number.

    Raises BlobexError for anything else.
    """
    mask = _decode(path, ("RGBA",), "RGBA pixels")
    category, flags = mask[:, :, 0], mask[:, :, 1]
    if category.max() >= len(PANOPTIC):
        raise BlobexError(f"{path} holds the category {category.max()}: there should be only 0 to {len(PANOPTIC) - 1}")
    return Panoptic(
        category=category,
        instance=mask[:, :, 2].astype(np.uint16) * 256 + mask[:, :, 3],
        truncated=(flags & 8) > 0,
        occluded=(flags & 4) > 0,
        crowd=(flags & 2) > 0,
        ignore=(flags & 1) > 0,
    )


def fit_boxes(boxes: Sequence[Box], size: tuple[int, int], height: int, width: int) -> tuple[Box, ...]:
    """Boxes of a picture of `size` (rows, columns) after `images.fit` to height x width.

    Boxes that the crop cuts are marked truncated; those that keep less than one pixel either way are left out.
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


def _base(root: str | Path, split: str, splits: tuple[str, ...]) -> Path:
    if split not in splits:
        raise BlobexError(f"there is no split {split!r}: choose one of {', '.join(splits)}")
    return Path(root)


def _detection(frame: dict[str, Any], folder: Path) -> Detection:
    labels = frame.get("labels") or []
    boxes = tuple(_box(label, number) for number, label in enumerate(labels, 1) if label["category"] in DETECTION)
    attributes = frame.get("attributes") or {}
    return Detection(
        image=folder / frame["name"],
        boxes=boxes,
        weather=attributes.get("weather", "undefined"),
        time=attributes.get("timeofday", "undefined"),
    )


def _box(label: dict[str, Any], number: int) -> Box:
    attributes, corners, name = label.get("attributes") or {}, label["box2d"], str(label.get("id", ""))
    return Box(
        category=label["category"],
        x1=float(corners["x1"]),
        y1=float(corners["y1"]),
        x2=float(corners["x2"]),
        y2=float(corners["y2"]),
        instance=int(name) if name.isdecimal() else number,
        occluded=bool(attributes.get("occluded", False)),
        truncated=bool(attributes.get("truncated", False)),
        light=LIGHTS.get(str(attributes.get("trafficLightColor")), "none"),
    )


def _masked(root: str | Path, split: str, pictures: str, labels: str, meaning: str) -> list[Masked]:
    base = _base(root, split, ("train", "val"))
    folder = base / "bdd100k/labels" / labels / split
    masks = sorted(folder.glob("*.png"))
    if not masks:
        raise BlobexError(f"{folder} is missing or empty: it should hold {meaning}, one PNG per picture")
    images = base / "bdd100k/images" / pictures / split
    return _with_pictures([Masked(images / f"{mask.stem}.jpg", mask) for mask in masks], folder)


def _with_pictures(records: list[P], labels: Path) -> list[P]:
    """The records whose picture exists; too many without one is an error, not a smaller data set."""
    if not records:
        raise BlobexError(f"{labels} names no pictures: it should list a whole split")
    missing = [record.image for record in records if not record.image.is_file()]
    if len(missing) > TOLERATED * len(records):
        raise BlobexError(
            f"{missing[0]} is missing, and {len(missing) - 1} more pictures that {labels} names: add them"
        )
    absent = set(missing)
    return [record for record in records if record.image not in absent]


def _find(base: Path, name: str) -> Path:
    places = [base / folder / name for folder in DECISION_FOLDERS]
    return next((place for place in places if place.is_file()), places[0])


def _read_json(path: Path, meaning: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BlobexError(f"{path} is missing: it should hold {meaning}") from error
    except OSError as error:
        raise BlobexError(f"{path} cannot be read ({error.strerror}): it should hold {meaning}") from error
    except ValueError as error:
        raise BlobexError(f"{path} is not valid JSON ({error}): it should hold {meaning}") from error


def _list(content: object) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError(f"a {type(content).__name__} instead of a list")
    return content


def _bits(values: Sequence[Any], count: int) -> tuple[bool, ...]:
    if len(values) != count or any(value not in (0, 1) for value in values):
        raise ValueError(f"not {count} zeros and ones: {values}")
    return tuple(bool(value) for value in values)


def _decode(path: str | Path, modes: tuple[str, ...], meaning: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in modes:
                raise BlobexError(f"{path} is a {image.mode} picture: the label map should have {meaning}")
            return np.array(image)
    except BlobexError:
        raise
    except FileNotFoundError as error:
        raise BlobexError(f"there is no label map {path}: check the path") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BlobexError(
            f"{path} cannot be decoded ({' '.join(str(error).split())}): it is damaged, replace it"
        ) from error
