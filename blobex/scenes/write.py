"""Files of scenes in the formats of BDD100K and BDD-OIA, which the readers of the real data read, too.

BDD100K: Scalabel frames in `det_20`, masks of category numbers, RGBA bitmasks. BDD-OIA (Xu et al., CVPR 2020): last
frames, one file of actions and one of reasons per split.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.core.files import whole_file, whole_folder, write_text
from blobex.scenes.render import Rendering, render
from blobex.scenes.rules import PLAIN, RULES, reasons
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene

SPLIT_STRIDE = 1_000_000  # seeds reserved for each split, so that a larger split has the same first images
DATASET_STRIDE = 10_000_000  # seeds reserved for each data set
WITNESS = 8  # index, after those of the splits, of the seeds of scenes that only witnesses are trained on
SEPARATE = 9  # the same, of the seeds of images that belong to no split
STUFF_INSTANCE = 300  # segment number of stuff in bitmasks, minus its category number

FOLDERS = {
    "detection_train": "bdd100k/images/100k/train",
    "detection_val": "bdd100k/images/100k/val",
    "segmentation_train": "bdd100k/images/10k/train",
    "segmentation_val": "bdd100k/images/10k/val",
    "decision_train": "bdd_oia/lastframe/data",
    "decision_val": "bdd_oia/lastframe/data",
    "decision_test": "bdd_oia/lastframe/data",
}
MASKS = {"detection": ("drivable/masks",), "segmentation": ("sem_seg/masks", "pan_seg/bitmasks"), "decision": ()}
LIST = "scenes.json"  # in a data set: its sets and their seeds
TIMES = {"day": "daytime", "dusk": "dawn/dusk", "night": "night"}
WEATHERS = {"clear": "clear", "overcast": "overcast", "rain": "rainy", "fog": "foggy"}
LIGHTS = {"none": "NA", "red": "R", "green": "G"}

Progress = Callable[[int, int], None]  # number of images written, total number


@dataclass(frozen=True)
class DatasetCounts:
    """Number of images in each split."""

    detection_train: int  # 100k: boxes and drivable areas
    detection_val: int
    segmentation_train: int  # 10k: semantic and panoptic masks
    segmentation_val: int
    decision_train: int  # BDD-OIA: actions and reasons
    decision_val: int
    decision_test: int


def seed_ranges(counts: DatasetCounts, seed: int) -> dict[str, range]:
    """Return the seeds of each split, which no other data set contains; BlobexError if one is empty or too large."""
    ranges = {}
    for position, (name, count) in enumerate(asdict(counts).items()):
        if not 1 <= count <= SPLIT_STRIDE:
            raise BlobexError(f"{name} is {count}: it must be from 1 to {SPLIT_STRIDE} images")
        start = seed * DATASET_STRIDE + position * SPLIT_STRIDE
        ranges[name] = range(start, start + count)
    return ranges


def image_name(seed: int) -> str:
    """Return the file name of a scene's image, without suffix."""
    return f"scene-{seed:08d}"


def scene_of(path: str | Path) -> Scene:
    """Return the scene of an image file; BlobexError if the name is not that of a scene's image."""
    match = re.fullmatch(r"scene-(\d{8,})", Path(path).stem)
    if match is None:
        raise BlobexError(f"{path} is not an image of a synthetic scene: its name must be scene-<seed>")
    return sample(int(match[1]))


def write_images(folder: Path, count: int, height: int, seed: int) -> list[Path]:
    """Write images of `count` scenes of no data set, without labels, and return their paths; BlobexError on failure."""
    if not 1 <= count <= SPLIT_STRIDE or seed < 0:
        raise BlobexError(f"{count} scenes of seed {seed}: give 1 to {SPLIT_STRIDE} scenes and a seed from 0")
    start = seed * DATASET_STRIDE + SEPARATE * SPLIT_STRIDE
    seeds = range(start, start + count)
    paths = [folder / f"{image_name(number)}.jpg" for number in seeds]
    try:
        for path, number in zip(paths, seeds, strict=True):
            with whole_file(path) as temporary:
                temporary.write_bytes(encode_jpeg(render(sample(number), height).image))
    except OSError as error:
        raise BlobexError(f"cannot write into {folder} ({error.strerror}): give another folder") from error
    return paths


@dataclass(frozen=True)
class SceneSet:
    """Scenes of one split of one kind of labels."""

    name: str  # of DatasetCounts, such as decision_train
    seeds: range
    height: int  # pixels

    @property
    def split(self) -> str:
        return self.name.partition("_")[2]

    def files(self, root: Path, seed: int) -> list[Path]:
        """Return the files of one scene in the data set in `root`, its image last."""
        masks = [f"bdd100k/labels/{folder}/{self.split}" for folder in MASKS[self.name.partition("_")[0]]]
        names = [*(f"{mask}/{image_name(seed)}.png" for mask in masks), f"{FOLDERS[self.name]}/{image_name(seed)}.jpg"]
        return [root / name for name in names]

    def write_scene(self, root: Path, seed: int) -> Any:
        """Render a scene and write its files, each atomically; return its entry for `write_labels`."""
        scene = sample(seed)
        rendering = render(scene, self.height)
        if self.name.startswith("detection"):
            maps = [rendering.drivable]
        else:
            maps = [rendering.semantic, bitmask(rendering)] if self.name.startswith("segmentation") else []
        *masks, image = self.files(root, seed)
        for path, content in zip(masks, maps, strict=True):
            with whole_file(path) as temporary:
                Image.fromarray(content).save(temporary, "PNG")
        with whole_file(image) as temporary:
            temporary.write_bytes(encode_jpeg(rendering.image))
        return _frame(scene, rendering) if self.name.startswith("detection") else scene

    def label_files(self, root: Path) -> list[Path]:
        """Return the files of the labels of the whole set."""
        if self.name.startswith("detection"):
            return [root / f"bdd100k/labels/det_20/det_{self.split}.json"]
        endings = ("actions", "biased_actions", "reasons") if self.name.startswith("decision") else ()
        return [root / f"bdd_oia/lastframe/gt_4a_21r/{self.split}_25k_images_{ending}.json" for ending in endings]

    def write_labels(self, root: Path, entries: Sequence[Any]) -> None:
        """Write `label_files`; `entries` are, of all scenes in order, Scalabel frames (detection) or the scenes."""
        files = self.label_files(root)
        contents = [entries] if self.name.startswith("detection") else _decision_labels(entries)
        for path, content in zip(files, contents, strict=False):  # none in a set whose labels are masks
            _write_json(path, content)


def write_dataset(root: Path, counts: DatasetCounts, height: int, seed: int, progress: Progress | None = None) -> None:
    """Write all splits under `root` or nothing; BlobexError if it holds files, or a split is empty or too large."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BlobexError(f"{root} exists already: remove it or choose another folder")
    ranges = seed_ranges(counts, seed)
    total, done = sum(len(seeds) for seeds in ranges.values()), itertools.count(1)
    with whole_folder(root) as folder:
        for name, seeds in ranges.items():
            part, entries = SceneSet(name, seeds, height), []
            for number in seeds:
                entries.append(part.write_scene(folder, number))
                if progress is not None:
                    progress(next(done), total)
            part.write_labels(folder, entries)
        write_list(folder, counts, height, seed)


def write_list(root: Path, counts: DatasetCounts, height: int, seed: int) -> None:
    """Write scenes.json, which lists the sets of the data set in `root`."""
    sets = {
        name: {"pictures": FOLDERS[name], "first_seed": seeds.start, "count": len(seeds)}
        for name, seeds in seed_ranges(counts, seed).items()
    }
    _write_json(root / LIST, {"height": height, "width": 2 * height, "seed": seed, "sets": sets})


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode an image (H,W,3) uint8 as those of all data sets."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _frame(scene: Scene, rendering: Rendering) -> dict[str, Any]:
    labels = [
        {
            "id": str(box.instance),
            "attributes": {
                "occluded": box.occluded,
                "truncated": box.truncated,
                "trafficLightColor": LIGHTS[box.light],
            },
            "category": box.category,
            "box2d": {"x1": box.x1, "y1": box.y1, "x2": box.x2, "y2": box.y2},
        }
        for box in rendering.boxes
    ]
    attributes = {"weather": WEATHERS[scene.weather], "timeofday": TIMES[scene.time], "scene": "city street"}
    return {"name": f"{image_name(scene.seed)}.jpg", "attributes": attributes, "timestamp": 10000, "labels": labels}


def _decision_labels(scenes: Sequence[Scene]) -> list[object]:
    """Return the actions, the actions with a planted shortcut, and the reasons of scenes, as in BDD-OIA's files."""
    names = [f"{image_name(scene.seed)}.jpg" for scene in scenes]
    images = [{"file_name": name, "id": number} for number, name in enumerate(names)]
    contents: list[object] = []
    for rule in (PLAIN, RULES["biased"]):
        categories = [[int(value) for value in rule.actions(scene)] for scene in scenes]
        annotations = [{"id": number, "category": category} for number, category in enumerate(categories)]
        contents.append({"images": images, "annotations": annotations})
    values = [[int(value) for value in reasons(scene)] for scene in scenes]
    rows = [{"file_name": name, "reason": reason} for name, reason in zip(names, values, strict=True)]
    return [*contents, rows]


def bitmask(rendering: Rendering) -> np.ndarray:
    """Return BDD100K's panoptic bitmask (H,2H,4) uint8: category, flags, high and low byte of the segment number."""
    flags = np.zeros(256, dtype=np.uint8)
    for box in rendering.boxes:
        flags[box.instance] = (box.truncated << 3) + (box.occluded << 2)
    stuff = STUFF_INSTANCE + rendering.panoptic.astype(np.uint16)
    segment = np.where(rendering.instance > 0, rendering.instance, stuff)
    high, low = (segment >> 8).astype(np.uint8), (segment & 255).astype(np.uint8)
    return np.stack([rendering.panoptic, flags[rendering.instance], high, low], axis=2)


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, separators=(",", ":")) + "\n")
