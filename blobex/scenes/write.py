"""Files of scenes in the formats of BDD100K and BDD-OIA, which the readers of the real data read, too.

BDD100K: Scalabel frames in `det_20`, masks of category numbers, RGBA bitmasks. BDD-OIA (Xu et al., CVPR 2020): last
frames, one file of actions and one of reasons per split.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.core.files import whole_folder
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
    try:
        scenes = [scene for scene, _ in _renderings(folder, range(start, start + count), height, lambda: None)]
    except OSError as error:
        raise BlobexError(f"cannot write into {folder} ({error.strerror}): give another folder") from error
    return [folder / f"{image_name(scene.seed)}.jpg" for scene in scenes]


def write_dataset(root: Path, counts: DatasetCounts, height: int, seed: int, progress: Progress | None = None) -> None:
    """Write all splits under `root` or nothing; BlobexError if it holds files, or a split is empty or too large."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BlobexError(f"{root} exists already: remove it or choose another folder")
    ranges = seed_ranges(counts, seed)
    total, done = sum(len(seeds) for seeds in ranges.values()), itertools.count(1)
    writers = {"detection": _write_detection, "segmentation": _write_segmentation, "decision": _write_decision}

    def tick() -> None:
        number = next(done)
        if progress is not None:
            progress(number, total)

    sets = {}
    with whole_folder(root) as folder:
        for name, seeds in ranges.items():
            kind, split = name.split("_")
            writers[kind](folder, split, _renderings(folder / FOLDERS[name], seeds, height, tick))
            sets[name] = {"pictures": FOLDERS[name], "first_seed": seeds.start, "count": len(seeds)}
        manifest = {"height": height, "width": 2 * height, "seed": seed, "sets": sets}
        _write_json(folder / "scenes.json", manifest)


def _renderings(folder: Path, seeds: range, height: int, tick: Callable[[], None]) -> Iterator[tuple[Scene, Rendering]]:
    """Render the scenes of a split one by one and write their images."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scene = sample(seed)
        rendering = render(scene, height)
        (folder / f"{image_name(seed)}.jpg").write_bytes(encode_jpeg(rendering.image))
        yield scene, rendering
        tick()


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encode an image (H,W,3) uint8 as those of all data sets."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _write_detection(folder: Path, split: str, renderings: Iterator[tuple[Scene, Rendering]]) -> None:
    """Write labels/det_20/det_<split>.json and labels/drivable/masks/<split>/*.png."""
    masks = _folder(folder / "bdd100k/labels/drivable/masks" / split)
    frames = []
    for scene, rendering in renderings:
        Image.fromarray(rendering.drivable).save(masks / f"{image_name(scene.seed)}.png")
        frames.append(_frame(scene, rendering))
    _write_json(folder / "bdd100k/labels/det_20" / f"det_{split}.json", frames)


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


def _write_segmentation(folder: Path, split: str, renderings: Iterator[tuple[Scene, Rendering]]) -> None:
    """Write labels/sem_seg/masks/<split>/*.png and labels/pan_seg/bitmasks/<split>/*.png."""
    masks = _folder(folder / "bdd100k/labels/sem_seg/masks" / split)
    bitmasks = _folder(folder / "bdd100k/labels/pan_seg/bitmasks" / split)
    for scene, rendering in renderings:
        name = f"{image_name(scene.seed)}.png"
        Image.fromarray(rendering.semantic).save(masks / name)
        Image.fromarray(bitmask(rendering)).save(bitmasks / name)


def _write_decision(folder: Path, split: str, renderings: Iterator[tuple[Scene, Rendering]]) -> None:
    """Write lastframe/gt_4a_21r/<split>_25k_images_{actions,biased_actions,reasons}.json."""
    scenes = [scene for scene, _ in renderings]
    names = [f"{image_name(scene.seed)}.jpg" for scene in scenes]
    stem = str(folder / "bdd_oia/lastframe/gt_4a_21r" / f"{split}_25k_images")
    images = [{"file_name": name, "id": number} for number, name in enumerate(names)]
    for rule, ending in ((PLAIN, "actions"), (RULES["biased"], "biased_actions")):
        categories = [[int(value) for value in rule.actions(scene)] for scene in scenes]
        annotations = [{"id": number, "category": category} for number, category in enumerate(categories)]
        _write_json(Path(f"{stem}_{ending}.json"), {"images": images, "annotations": annotations})
    values = [[int(value) for value in reasons(scene)] for scene in scenes]
    rows = [{"file_name": name, "reason": reason} for name, reason in zip(names, values, strict=True)]
    _write_json(Path(f"{stem}_reasons.json"), rows)


def bitmask(rendering: Rendering) -> np.ndarray:
    """Return BDD100K's panoptic bitmask (H,2H,4) uint8: category, flags, high and low byte of the segment number."""
    flags = np.zeros(256, dtype=np.uint8)
    for box in rendering.boxes:
        flags[box.instance] = (box.truncated << 3) + (box.occluded << 2)
    stuff = STUFF_INSTANCE + rendering.panoptic.astype(np.uint16)
    segment = np.where(rendering.instance > 0, rendering.instance, stuff)
    high, low = (segment >> 8).astype(np.uint8), (segment & 255).astype(np.uint8)
    return np.stack([rendering.panoptic, flags[rendering.instance], high, low], axis=2)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_json(path: Path, content: object) -> None:
    _folder(path.parent)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
