"""Training data of the witnesses: other scenes than those of the data set, which are rendered, not stored.

Photographs cannot be rendered: of a real data set the witnesses see the training split, as other networks do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.data import ImageSize
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.datasets.bdd import fit_boxes
from blobex.datasets.datamodule import (
    DetectionSet,
    SegmentationSet,
    box_rows,
    load_detection,
    load_planted,
    load_segmentation,
    thing_numbers,
)
from blobex.datasets.images import decode_jpeg, fit, fit_mask
from blobex.datasets.manifest import data_root
from blobex.scenes.labels import FIRST_THING
from blobex.scenes.render import Rendering, render
from blobex.scenes.rules import find_rule
from blobex.scenes.sample import sample
from blobex.scenes.write import DATASET_STRIDE, SPLIT_STRIDE, WITNESS, encode_jpeg


@dataclass(frozen=True)
class WitnessSet:
    """Images with the labels of both witnesses; the images of the three parts may be one tensor."""

    images: Tensor  # N,3,H,W uint8
    actions: Tensor  # N,R,4 float32, 0 or 1: of each rule, the actions of scenes.rules.ACTIONS
    detection: DetectionSet
    segmentation: SegmentationSet


@dataclass(frozen=True)
class SceneSeeds:
    """Scenes to render."""

    seeds: range
    height: int  # pixels


def load_witness_set(params: Params, setup: str) -> WitnessSet:
    """Render the training scenes of a setup's witnesses, or load the training split if the data set is a real one."""
    options, rules = params.witness, params.decision.variants
    other = other_scenes(data_root(params), options.seed_offset, options.scenes)
    if other is None:
        return load_labelled(params, setup, "train")
    return render_labelled(other, params.setup(setup), rules)


def load_labelled(params: Params, setup: str, split: str) -> WitnessSet:
    """Load a split of the data set, with the actions of all rules in `decision.variants`."""
    parts = [load_planted(params, setup, split, rule) for rule in params.decision.variants]
    actions = torch.stack([part.actions for part in parts], dim=1)
    detection, segmentation = load_detection(params, setup, split), load_segmentation(params, setup, split)
    return WitnessSet(parts[0].images, actions, detection, segmentation)


def other_scenes(root: Path, seed_offset: int, count: int) -> SceneSeeds | None:
    """Return the seeds of `count` scenes that are in no data set, and the height of the scenes in `root`.

    None if `root` holds no synthetic scenes. Their seeds are reserved for witnesses: no split of any data set has them.

    Raises:
        BlobexError: if the list of the scenes in `root` is damaged, or contains such a seed.
    """
    path = root / "scenes.json"
    if not path.is_file():
        return None
    try:
        listed = read_json(path)
        height, seed = int(listed["height"]), int(listed["seed"])
        used = [range(part["first_seed"], part["first_seed"] + part["count"]) for part in listed["sets"].values()]
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise BlobexError(f"{path} does not list the seeds of scenes: run `dvc repro scenes` again") from error
    start = (seed + seed_offset) * DATASET_STRIDE + WITNESS * SPLIT_STRIDE
    seeds = range(start, start + count)
    for part in used:
        if max(part.start, seeds.start) < min(part.stop, seeds.stop):
            raise BlobexError(f"{path} lists scenes {part.start} to {part.stop - 1}: change witness.seed_offset")
    return SceneSeeds(seeds, height)


def render_labelled(scenes: SceneSeeds, size: ImageSize, rules: Sequence[str]) -> WitnessSet:
    """Render scenes with all labels, as if they had been written to files and loaded."""
    images, boxes, actions = [], [], []
    maps: dict[str, list[np.ndarray]] = {"drivable": [], "semantic": [], "things": []}
    chosen = [find_rule(rule) for rule in rules]
    for seed in tqdm(scenes.seeds, desc="scenes", unit="scene", leave=False, disable=None):
        scene = sample(seed)
        rendering = render(scene, scenes.height)
        images.append(fit(decode_jpeg(encode_jpeg(rendering.image)), size.height, size.width).transpose(2, 0, 1))
        boxes.append(fit_boxes(rendering.boxes, rendering.semantic.shape, size.height, size.width))
        actions.append([rule.actions(scene) for rule in chosen])
        for name, fitted in _label_maps(rendering, size).items():
            maps[name].append(fitted)
    pixels = torch.from_numpy(np.stack(images))
    labels = {name: torch.from_numpy(np.stack(arrays)) for name, arrays in maps.items()}
    return WitnessSet(
        pixels,
        torch.tensor(actions, dtype=torch.float32),
        DetectionSet(pixels, box_rows(boxes), labels["drivable"]),
        SegmentationSet(pixels, labels["semantic"], labels["things"]),
    )


def _label_maps(rendering: Rendering, size: ImageSize) -> dict[str, np.ndarray]:
    instance = np.where(rendering.panoptic >= FIRST_THING, rendering.instance, 0)
    maps = {"drivable": rendering.drivable, "semantic": rendering.semantic, "things": instance}
    fitted = {name: fit_mask(array, size.height, size.width) for name, array in maps.items()}
    return fitted | {"things": thing_numbers(fitted["things"])}
