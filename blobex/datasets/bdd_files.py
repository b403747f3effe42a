"""Files of BDD100K and BDD-OIA: expected paths, missing parts, and readers of JSON files and label maps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.datasets.images import opened_image
from blobex.scenes.labels import PANOPTIC


@dataclass(frozen=True)
class DatasetPart:
    """Part of a published data set; `{split}` stands for each of `splits`. Paths are relative to the data set."""

    meaning: str
    paths: tuple[str, ...]  # the published one first
    archive: str
    unpack_in: str = ""
    splits: tuple[str, ...] = ("train", "val")

    def locate(self, root: Path, split: str) -> Path:
        """Return the path of the part, or its published path if it is missing."""
        paths = [root / path.format(split=split) for path in self.paths]
        return next((path for path in paths if is_present(path)), paths[0])


# The archive of BDD-OIA may be unpacked a level higher.
_OIA_LABELS = ("bdd_oia/lastframe/gt_4a_21r", "bdd_oia/lastframe", "bdd_oia/lastframe/data", "bdd_oia")


def _labels_100k(meaning: str, path: str, name: str) -> DatasetPart:
    return DatasetPart(f"the {meaning} of BDD100K", (f"bdd100k/labels/{path}",), f"bdd100k_{name}_labels_trainval.zip")


def _oia(meaning: str, paths: tuple[str, ...], splits: tuple[str, ...]) -> DatasetPart:
    return DatasetPart(f"the {meaning} of BDD-OIA", paths, "lastframe.zip", "bdd_oia", splits)


def _oia_labels(meaning: str) -> DatasetPart:
    paths = tuple(f"{folder}/{{split}}_25k_images_{meaning}.json" for folder in _OIA_LABELS)
    return _oia(meaning, paths, ("train", "val", "test"))


IMAGES_100K = DatasetPart("the 100k images of BDD100K", ("bdd100k/images/100k/{split}",), "100k_images_{split}.zip")
IMAGES_10K = DatasetPart("the 10k images of BDD100K", ("bdd100k/images/10k/{split}",), "10k_images_{split}.zip")
DETECTION_LABELS = DatasetPart(
    "the Detection 2020 labels of BDD100K",
    ("bdd100k/labels/det_20/det_{split}.json", "bdd100k/labels/bdd100k_labels_images_{split}.json"),  # 2020, 2018
    "bdd100k_det_20_labels_trainval.zip",
)
DRIVABLE_MASKS = _labels_100k("drivable area masks", "drivable/masks/{split}", "drivable")
SEMANTIC_MASKS = _labels_100k("semantic segmentation masks", "sem_seg/masks/{split}", "sem_seg")
PANOPTIC_MASKS = _labels_100k("panoptic bitmasks", "pan_seg/bitmasks/{split}", "pan_seg")
OIA_IMAGES = _oia("images", ("bdd_oia/lastframe/data", "bdd_oia/data"), ("all",))
OIA_ACTIONS, OIA_REASONS = _oia_labels("actions"), _oia_labels("reasons")
PARTS = (
    *(IMAGES_100K, DETECTION_LABELS, DRIVABLE_MASKS, IMAGES_10K, SEMANTIC_MASKS, PANOPTIC_MASKS),
    *(OIA_IMAGES, OIA_ACTIONS, OIA_REASONS),
)


@dataclass(frozen=True)
class ImageFinder:
    """Finds images by file name: directly in a folder, else anywhere below a wider one (default: the same)."""

    folder: Path
    wider: Path | None = None

    def find(self, name: str) -> Path:
        """Return the path of an image, or where it should be. Raises ValueError if the name leads out of the folder."""
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{name!r} lies outside of the folder of the images")
        direct = self.folder / name
        return direct if direct.is_file() else self._index.get(Path(name).name, direct)

    @cached_property
    def _index(self) -> dict[str, Path]:
        return {path.name: path for path in sorted((self.wider or self.folder).rglob("*"), reverse=True)}


def is_present(path: Path) -> bool:
    """Return True for a file and for a folder that is not empty; nothing is opened."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def missing_parts(root: str | Path) -> list[str]:
    """Describe the missing parts of a data set, one line each: meaning, expected path, archive."""
    root, lines = Path(root), []
    for part in PARTS:
        absent = [split for split in part.splits if not is_present(part.locate(root, split))]
        if absent:
            splits = absent[0] if len(absent) == 1 else "{" + ",".join(absent) + "}"
            path, archive = (text.format(split=splits) for text in (part.paths[0], part.archive))
            lines.append(f"{part.meaning} at {root / path} (unpack {archive} in {root / part.unpack_in})")
    return lines


def missing_error(root: Path, path: Path, meaning: str) -> BlobexError:
    """Return the error for a missing path, which names all other missing parts too."""
    if not root.is_dir():
        return BlobexError(
            f"there is no folder {root}: run `dvc repro scenes`, or set data.root to what holds bdd100k/ and bdd_oia/"
        )
    lines = missing_parts(root)
    everything = f"; in all, {root} lacks " + "; ".join(lines) if lines else ""
    return BlobexError(f"{path} is missing or empty: it should hold {meaning}{everything}")


def read_labels(root: Path, path: Path, part: DatasetPart) -> Any:
    """Read a JSON file of a part. Raises BlobexError if it is missing or damaged."""
    try:
        return read_json(path)
    except FileNotFoundError as error:
        raise missing_error(root, path, part.meaning) from error
    except OSError as error:
        raise BlobexError(f"{path} cannot be read ({error.strerror}): it should hold {part.meaning}") from error
    except ValueError as error:
        raise BlobexError(f"{path} is not valid JSON ({error}): it should hold {part.meaning}") from error


@dataclass(frozen=True)
class Panoptic:
    """A decoded bitmask; all arrays are (H,W)."""

    category: np.ndarray  # uint8: scenes.labels.PANOPTIC
    instance: np.ndarray  # uint16: one number per segment
    crowd: np.ndarray  # bool


def load_mask(path: str | Path, categories: int) -> np.ndarray:
    """Load a label map (H,W) uint8 of numbers below `categories`, or 255. Raises BlobexError for anything else."""
    mask = _decode(path, ("L", "P"), "one number a pixel")
    wrong = (mask >= categories) & (mask != 255)
    if wrong.any():
        raise BlobexError(f"{path} holds the label {mask[wrong][0]}: it may be 0 to {categories - 1}, or 255")
    return mask


def load_bitmask(path: str | Path) -> Panoptic:
    """Decode an RGBA bitmask: R is the category, bit 1 of G the crowd flag, 256 B + A the segment number.

    Bits 3, 2 and 0 of G (truncated, occluded, ignore) are not used. Raises BlobexError if the file holds anything else.
    """
    mask = _decode(path, ("RGBA",), "RGBA pixels")
    category = mask[:, :, 0]
    if category.max() >= len(PANOPTIC):
        raise BlobexError(f"{path} holds the category {category.max()}: there should be only 0 to {len(PANOPTIC) - 1}")
    instance = mask[:, :, 2].astype(np.uint16) * 256 + mask[:, :, 3]
    return Panoptic(category, instance, (mask[:, :, 1] & 2) > 0)


def _decode(path: str | Path, modes: tuple[str, ...], meaning: str) -> np.ndarray:
    with opened_image(Path(path), "label map") as image:
        if image.mode not in modes:
            raise BlobexError(f"{path} is a {image.mode} image: the label map should have {meaning}")
        return np.array(image)
