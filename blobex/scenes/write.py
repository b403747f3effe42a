"""Write scenes as the files of BDD100K and BDD-OIA, so that one reader serves them and the real data.

Formats: BDD100K's documentation ("Label Format", "Data Download"): Scalabel frames in `det_20`, masks of category
numbers, RGBA bitmasks. BDD-OIA (Xu et al., CVPR 2020): last frames, one file of actions and one of reasons per split.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.scenes.render import Rendering, render
from blobex.scenes.rules import actions, biased_actions, reasons
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene

SPLIT_STRIDE = 1_000_000  # seeds kept for each split, so that a larger split keeps its first pictures
DATASET_STRIDE = 10_000_000  # seeds kept for each data set
LOOSE = 9  # place, among the splits, of the seeds of pictures that belong to none
STUFF_INSTANCE = 300  # in bitmasks, uncounted categories are the segment this much above their number

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

Progress = Callable[[int, int], None]  # pictures done, pictures in all


@dataclass(frozen=True)
class DatasetCounts:
    """Pictures in each set and split."""

    detection_train: int  # 100k: boxes and drivable areas
    detection_val: int
    segmentation_train: int  # 10k: semantic and panoptic masks
    segmentation_val: int
    decision_train: int  # BDD-OIA: actions and reasons
    decision_val: int
    decision_test: int


def seed_ranges(counts: DatasetCounts, seed: int) -> dict[str, range]:
    """The scene seeds of each split. No two splits and no two data sets share one; BlobexError if they would."""
    ranges = {}
    for position, (name, count) in enumerate(asdict(counts).items()):
        if not 1 <= count <= SPLIT_STRIDE:
            raise BlobexError(f"{name} is {count}: it must be from 1 to {SPLIT_STRIDE} pictures")
        start = seed * DATASET_STRIDE + position * SPLIT_STRIDE
        ranges[name] = range(start, start + count)
    return ranges


def picture_name(seed: int) -> str:
    """File name, without its ending, of the picture of a scene."""
    return f"scene-{seed:08d}"


def scene_of(path: str | Path) -> Scene:
    """The scene behind a written picture. Raises BlobexError for a picture that is none of ours."""
    match = re.fullmatch(r"scene-(\d{8,})", Path(path).stem)
    if match is None:
        raise BlobexError(f"{path} is no picture of a synthetic scene: its name must be scene-<seed>")
    return sample(int(match[1]))


def write_pictures(folder: Path, count: int, height: int, seed: int) -> list[Path]:
    """Draw `count` scenes that are in no data set, as pictures alone, into a folder; the files, in order.

    BlobexError: too many for a seed, or the folder cannot be written.
    """
    if not 1 <= count <= SPLIT_STRIDE or seed < 0:
        raise BlobexError(f"{count} scenes of seed {seed}: give 1 to {SPLIT_STRIDE} scenes and a seed from 0")
    start = seed * DATASET_STRIDE + LOOSE * SPLIT_STRIDE
    try:
        drawn = [scene for scene, _ in _pictures(folder, range(start, start + count), height, lambda: None)]
    except OSError as error:
        raise BlobexError(f"cannot write into {folder} ({error.strerror}): give another folder") from error
    return [folder / f"{picture_name(scene.seed)}.jpg" for scene in drawn]


def write_dataset(root: Path, counts: DatasetCounts, height: int, seed: int, progress: Progress | None = None) -> None:
    """Write all sets under `root`, which must not exist yet (or be empty).

    All is written beside `root` first and renamed at the end: a run that stops leaves no `root`. Raises BlobexError.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise BlobexError(f"{root} is there already: remove it or choose another folder")
    ranges = seed_ranges(counts, seed)
    total, done = sum(len(seeds) for seeds in ranges.values()), itertools.count(1)
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    writers = {"detection": _write_detection, "segmentation": _write_segmentation, "decision": _write_decision}

    def tick() -> None:
        number = next(done)
        if progress is not None:
            progress(number, total)

    try:
        for name, seeds in ranges.items():
            kind, split = name.split("_")
            writers[kind](folder, split, _pictures(folder / FOLDERS[name], seeds, height, tick))
        _write_json(folder / "scenes.json", _manifest(ranges, height, seed))
        folder.chmod(0o755)  # mkdtemp's own is private
        folder.replace(root)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _pictures(folder: Path, seeds: range, height: int, tick: Callable[[], None]) -> Iterator[tuple[Scene, Rendering]]:
    """Draw the scenes of a split one by one and write their pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        scene = sample(seed)
        rendering = render(scene, height)
        Image.fromarray(rendering.image).save(folder / f"{picture_name(seed)}.jpg", quality=95, subsampling=0)
        yield scene, rendering
        tick()


def _write_detection(folder: Path, split: str, pictures: Iterator[tuple[Scene, Rendering]]) -> None:
    """labels/det_20/det_<split>.json and labels/drivable/masks/<split>/*.png."""
    masks = _folder(folder / "bdd100k/labels/drivable/masks" / split)
    frames = []
    for scene, rendering in pictures:
        Image.fromarray(rendering.drivable).save(masks / f"{picture_name(scene.seed)}.png")
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
    return {"name": f"{picture_name(scene.seed)}.jpg", "attributes": attributes, "timestamp": 10000, "labels": labels}


def _write_segmentation(folder: Path, split: str, pictures: Iterator[tuple[Scene, Rendering]]) -> None:
    """labels/sem_seg/masks/<split>/*.png and labels/pan_seg/bitmasks/<split>/*.png."""
    masks = _folder(folder / "bdd100k/labels/sem_seg/masks" / split)
    bitmasks = _folder(folder / "bdd100k/labels/pan_seg/bitmasks" / split)
    for scene, rendering in pictures:
        name = f"{picture_name(scene.seed)}.png"
        Image.fromarray(rendering.semantic).save(masks / name)
        Image.fromarray(bitmask(rendering)).save(bitmasks / name)


def _write_decision(folder: Path, split: str, pictures: Iterator[tuple[Scene, Rendering]]) -> None:
    """lastframe/gt_4a_21r/<split>_25k_images_{actions,biased_actions,reasons}.json."""
    scenes = [scene for scene, _ in pictures]
    names = [f"{picture_name(scene.seed)}.jpg" for scene in scenes]
    stem = str(folder / "bdd_oia/lastframe/gt_4a_21r" / f"{split}_25k_images")
    images = [{"file_name": name, "id": number} for number, name in enumerate(names)]
    for decide, ending in ((actions, "actions"), (biased_actions, "biased_actions")):
        annotations = [
            {"id": number, "category": [int(value) for value in decide(scene)]} for number, scene in enumerate(scenes)
        ]
        _write_json(Path(f"{stem}_{ending}.json"), {"images": images, "annotations": annotations})
    why = [
        {"file_name": name, "reason": [int(value) for value in reasons(scene)]}
        for name, scene in zip(names, scenes, strict=True)
    ]
    _write_json(Path(f"{stem}_reasons.json"), why)


def bitmask(rendering: Rendering) -> np.ndarray:
    """BDD100K's panoptic bitmask, (H,2H,4) uint8: category, flags, and the segment number's high and low byte."""
    flags = np.zeros(256, dtype=np.uint8)
    for box in rendering.boxes:
        flags[box.instance] = (box.truncated << 3) + (box.occluded << 2)
    segment = np.where(
        rendering.instance > 0, rendering.instance, STUFF_INSTANCE + rendering.panoptic.astype(np.uint16)
    )
    high, low = (segment >> 8).astype(np.uint8), (segment & 255).astype(np.uint8)
    return np.stack([rendering.panoptic, flags[rendering.instance], high, low], axis=2)


def _manifest(ranges: dict[str, range], height: int, seed: int) -> dict[str, Any]:
    sets = {
        name: {"pictures": FOLDERS[name], "first_seed": seeds.start, "count": len(seeds)}
        for name, seeds in ranges.items()
    }
    return {"height": height, "width": 2 * height, "seed": seed, "sets": sets}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _write_json(path: Path, content: object) -> None:
    _folder(path.parent)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
