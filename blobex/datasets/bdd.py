"""Read BDD100K and BDD-OIA as they are published; the synthetic data set has the same files.

`root` holds `bdd100k/` (images, labels) and `bdd_oia/` (lastframe). Pictures may also lie in folders within the
published ones. Formats: BDD100K's documentation ("Label Format", "Data Download"); BDD-OIA: Xu et al., CVPR 2020, and
the README that comes with the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

from blobex.core.errors import BlobexError, brief
from blobex.core.files import read_json
from blobex.datasets.images import crop_box, list_images
from blobex.scenes.labels import DETECTION
from blobex.scenes.render import Box
from blobex.scenes.rules import ACTIONS, REASONS

TOLERATED = 0.01  # share of labels whose picture may be missing; the loader published with BDD-OIA skips such, too
LIGHTS = {"R": "red", "G": "green", "Y": "yellow", "red": "red", "green": "green", "yellow": "yellow"}
WRONG = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)  # of content of another form
# Where BDD-OIA's files may lie: as the archive holds them, or a level higher.
DECISION_LABELS = ("bdd_oia/lastframe/gt_4a_21r", "bdd_oia/lastframe", "bdd_oia/lastframe/data", "bdd_oia")
DECISION_PICTURES = ("bdd_oia/lastframe/data", "bdd_oia/data")

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
    mask: Path  # for `masks.load_mask` or `masks.load_bitmask`


@dataclass(frozen=True)
class Decision:
    image: Path
    actions: tuple[bool, ...]  # scenes.rules.ACTIONS
    reasons: tuple[bool, ...]  # scenes.rules.REASONS


class _Pictured(Protocol):
    @property
    def image(self) -> Path: ...


P = TypeVar("P", bound=_Pictured)


@dataclass(frozen=True)
class _Pictures:
    """Finds pictures by name: directly in a folder, else anywhere in a wider one."""

    folder: Path
    wider: Path

    def find(self, name: str) -> Path:
        """Where a picture is, or should be; ValueError for a name that leads out of the folder."""
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} lies outside of the pictures' folder")
        direct = self.folder / name
        return direct if direct.is_file() else self._index.get(Path(name).name, direct)

    @cached_property
    def _index(self) -> dict[str, Path]:
        return {path.name: path for path in sorted(self.wider.rglob("*"), reverse=True)}


@dataclass(frozen=True)
class Part:
    """A part of the published data sets; `{split}` stands for each of `splits`."""

    meaning: str
    places: tuple[str, ...]  # below the root, the published one first
    archive: str
    folder: str = ""  # below the root, where the archive is unpacked
    splits: tuple[str, ...] = ("train", "val")


def _decision_places(ending: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{{split}}_25k_images_{ending}.json" for folder in DECISION_LABELS)


OIA = ("lastframe.zip", "bdd_oia")
IMAGES_100K = Part("the 100k pictures of BDD100K", ("bdd100k/images/100k/{split}",), "100k_images_{split}.zip")
IMAGES_10K = Part("the 10k pictures of BDD100K", ("bdd100k/images/10k/{split}",), "10k_images_{split}.zip")
DETECTION_LABELS = Part(
    "the Detection 2020 labels of BDD100K",
    ("bdd100k/labels/det_20/det_{split}.json",),
    "bdd100k_det_20_labels_trainval.zip",
)
DRIVABLE_MASKS = Part(
    "the drivable area masks of BDD100K",
    ("bdd100k/labels/drivable/masks/{split}",),
    "bdd100k_drivable_labels_trainval.zip",
)
SEMANTIC_MASKS = Part(
    "the semantic segmentation masks of BDD100K",
    ("bdd100k/labels/sem_seg/masks/{split}",),
    "bdd100k_sem_seg_labels_trainval.zip",
)
PANOPTIC_MASKS = Part(
    "the panoptic bitmasks of BDD100K",
    ("bdd100k/labels/pan_seg/bitmasks/{split}",),
    "bdd100k_pan_seg_labels_trainval.zip",
)
OIA_IMAGES = Part("the pictures of BDD-OIA", DECISION_PICTURES, *OIA, splits=("all",))
OIA_ACTIONS = Part("the actions of BDD-OIA", _decision_places("actions"), *OIA, splits=("train", "val", "test"))
OIA_REASONS = Part("the reasons of BDD-OIA", _decision_places("reasons"), *OIA, splits=("train", "val", "test"))
PARTS = (
    *(IMAGES_100K, DETECTION_LABELS, DRIVABLE_MASKS, IMAGES_10K, SEMANTIC_MASKS, PANOPTIC_MASKS),
    *(OIA_IMAGES, OIA_ACTIONS, OIA_REASONS),
)


def missing_parts(root: str | Path) -> list[str]:
    """What a data set in `root` lacks, one line a part: what it is, where it is looked for, the archive it comes in.

    Nothing is opened: a part is there if its file is, or its folder holds something.
    """
    base, lines = Path(root), []
    for part in PARTS:
        absent = [split for split in part.splits if not _present(_locate(base, part, split))]
        if absent:
            word = absent[0] if len(absent) == 1 else "{" + ",".join(absent) + "}"
            place, archive = (text.format(split=word) for text in (part.places[0], part.archive))
            lines.append(f"{part.meaning} at {base / place} (unpack {archive} in {base / part.folder})")
    return lines


def list_pictures(root: str | Path, split: str) -> list[Path]:
    """The 100k pictures, labelled or not, split "train" or "val", sorted. Raises BlobexError if there are none."""
    base = _base(root, split, ("train", "val"))
    folder = _locate(base, IMAGES_100K, split)
    if not _present(folder):
        raise _lacking(base, folder, IMAGES_100K.meaning)
    return list_images(folder)


def read_detection(root: str | Path, split: str) -> list[Detection]:
    """Boxes of the 100k pictures, split "train" or "val". Boxes outside the ten detection categories are left out.

    Raises BlobexError for missing or malformed files.
    """
    base = _base(root, split, ("train", "val"))
    path = _locate(base, DETECTION_LABELS, split)
    frames = _read_json(base, path, DETECTION_LABELS)
    pictures = _pictures(base, IMAGES_100K, split)
    try:
        records = [_detection(frame, pictures) for frame in _list(frames)]
    except WRONG as error:
        raise BlobexError(
            f"{path} is not a list of Scalabel frames ({brief(repr(error))}): download it again"
        ) from error
    return _with_pictures(base, records, path)


def read_drivable(root: str | Path, split: str) -> list[Masked]:
    """100k pictures and their drivable masks (`load_mask` with 3 categories). Raises BlobexError for missing parts."""
    return _masked(root, split, IMAGES_100K, DRIVABLE_MASKS)


def read_semantic(root: str | Path, split: str) -> list[Masked]:
    """10k pictures and their semantic masks (`load_mask` with 19 categories). Raises BlobexError for missing parts."""
    return _masked(root, split, IMAGES_10K, SEMANTIC_MASKS)


def read_panoptic(root: str | Path, split: str) -> list[Masked]:
    """10k pictures and their panoptic bitmasks (`load_bitmask`). Raises BlobexError for missing parts."""
    return _masked(root, split, IMAGES_10K, PANOPTIC_MASKS)


def read_decisions(root: str | Path, split: str, biased: bool = False) -> list[Decision]:
    """Actions and reasons of BDD-OIA, split "train", "val" or "test".

    With `biased`, the actions have a planted shortcut: no right while something stands in the left lane. They are the
    synthetic data set's own, or, where there are none, follow from the actions and the reasons. Pictures whose fifth
    action, "confuse", is set are left out, as in the published loader. Raises BlobexError for missing or malformed
    files.
    """
    base = _base(root, split, ("train", "val", "test"))
    action_path, reason_path = (_locate(base, part, split) for part in (OIA_ACTIONS, OIA_REASONS))
    planted_path = action_path.with_name(action_path.name.replace("_actions", "_biased_actions"))
    planted = biased and planted_path.exists()
    action_path = planted_path if planted else action_path
    content = _read_json(base, action_path, OIA_ACTIONS)
    why = _read_json(base, reason_path, OIA_REASONS)
    pictures = _Pictures(_locate(base, OIA_IMAGES, "all"), base / "bdd_oia")
    try:
        reasons = {item["file_name"]: _bits(item["reason"], len(REASONS)) for item in _list(why)}
    except WRONG as error:
        raise BlobexError(
            f"{reason_path} is not a list of file_name and reason ({brief(repr(error))}): download it again"
        ) from error
    records = []
    try:
        for image in content["images"]:
            # As in the published loader, an image's id is the position of its annotation.
            category = content["annotations"][_position(image["id"])]["category"]
            if len(category) > len(ACTIONS) and category[len(ACTIONS)]:
                continue
            name = image["file_name"]
            actions = _bits(category[: len(ACTIONS)], len(ACTIONS))
            if biased and not planted:
                actions = (*actions[:RIGHT], actions[RIGHT] and not reasons[name][LEFT_OBSTACLE])
            records.append(Decision(pictures.find(name), actions, reasons[name]))
    except WRONG as error:
        raise BlobexError(
            f"{action_path} does not hold images and annotations with reasons ({brief(repr(error))}): get it again"
        ) from error
    return _with_pictures(base, sorted(records, key=lambda record: record.image), action_path)


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


def _pictures(base: Path, part: Part, split: str) -> _Pictures:
    folder = _locate(base, part, split)
    return _Pictures(folder, folder)


def _detection(frame: dict[str, Any], pictures: _Pictures) -> Detection:
    labels = frame.get("labels") or []
    boxes = tuple(_box(label, number) for number, label in enumerate(labels, 1) if label["category"] in DETECTION)
    attributes = frame.get("attributes") or {}
    return Detection(
        image=pictures.find(frame["name"]),
        boxes=boxes,
        weather=attributes.get("weather", "undefined"),
        time=attributes.get("timeofday", "undefined"),
    )


def _box(label: dict[str, Any], number: int) -> Box:
    attributes, corners, name = label.get("attributes") or {}, label["box2d"], str(label.get("id", ""))
    edges = {side: float(corners[side]) for side in ("x1", "y1", "x2", "y2")}
    if not all(math.isfinite(edge) for edge in edges.values()):
        raise ValueError(f"the box {edges}")
    return Box(
        category=label["category"],
        **edges,
        instance=int(name) if name.isdecimal() else number,
        occluded=bool(attributes.get("occluded", False)),
        truncated=bool(attributes.get("truncated", False)),
        light=LIGHTS.get(str(attributes.get("trafficLightColor")), "none"),
    )


def _masked(root: str | Path, split: str, images: Part, masks: Part) -> list[Masked]:
    base = _base(root, split, ("train", "val"))
    folder = _locate(base, masks, split)
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        raise _lacking(base, folder, f"{masks.meaning}, one PNG per picture")
    pictures = _pictures(base, images, split)
    return _with_pictures(base, [Masked(pictures.find(f"{path.stem}.jpg"), path) for path in paths], folder)


def _with_pictures(base: Path, records: list[P], labels: Path) -> list[P]:
    """The records whose picture exists; too many without one is an error, not a smaller data set."""
    if not records:
        raise BlobexError(f"{labels} names no pictures: it should list a whole split")
    missing = [record.image for record in records if not record.image.is_file()]
    if len(missing) > TOLERATED * len(records):
        raise _lacking(base, missing[0], f"a picture that {labels} names, as do {len(missing) - 1} more pictures")
    absent = set(missing)
    return [record for record in records if record.image not in absent]


def _locate(base: Path, part: Part, split: str) -> Path:
    """Where the part lies, or should."""
    paths = [base / place.format(split=split) for place in part.places]
    return next((path for path in paths if _present(path)), paths[0])


def _present(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _lacking(base: Path, path: Path, meaning: str) -> BlobexError:
    """One sentence about what is missing at `path`, and whatever else the data set lacks."""
    if not base.is_dir():
        return BlobexError(
            f"there is no folder {base}: run `dvc repro scenes`, or set data.root to what holds bdd100k/ and bdd_oia/"
        )
    lines = missing_parts(base)
    everything = f"; in all, {base} lacks " + "; ".join(lines) if lines else ""
    return BlobexError(f"{path} is missing or empty: it should hold {meaning}{everything}")


def _read_json(base: Path, path: Path, part: Part) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise _lacking(base, path, part.meaning) from error
    except OSError as error:
        raise BlobexError(f"{path} cannot be read ({error.strerror}): it should hold {part.meaning}") from error
    except ValueError as error:
        raise BlobexError(f"{path} is not valid JSON ({error}): it should hold {part.meaning}") from error


def _list(content: object) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError(f"a {type(content).__name__} instead of a list")
    return content


def _position(number: int) -> int:
    """A place in a list, which Python would count from the end if it is below 0."""
    if number < 0:
        raise ValueError(f"the id {number}")
    return number


def _bits(values: Sequence[Any], count: int) -> tuple[bool, ...]:
    if len(values) != count or any(value not in (0, 1) for value in values):
        raise ValueError(f"not {count} zeros and ones: {values}")
    return tuple(bool(value) for value in values)
