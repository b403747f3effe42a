"""Pixels of an object that is named in words: `[nearest|all] CATEGORY [ahead|left|right]`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from blobex.config.messages import abbreviated
from blobex.core.errors import BlobexError
from blobex.networks.parser import ParserOutput, detections, panoptic
from blobex.perception.boxes import Box, area, bounding_box, box_mask, centre, iou
from blobex.perception.ground import SIGNALS, Ground, Place, fit_ground, place_of
from blobex.perception.objects import fence_patches
from blobex.scenes.labels import DETECTION, SEMANTIC

VEHICLES = ("car", "truck", "bus", "train", "motorcycle", "bicycle")  # the vehicles of Cityscapes
# Names of objects that are counted one by one, and the detection categories that each stands for.
COUNTED = {name: (name,) for name in DETECTION} | {"person": ("pedestrian",), "vehicle": VEHICLES}
UNCOUNTED = tuple(name for name in SEMANTIC if name not in COUNTED)
COLUMNS = {"left": (0.0, 0.5), "right": (0.5, 1.0), "ahead": (1 / 3, 2 / 3)}  # of uncounted categories, image widths
SAME_OBJECT = 0.5  # least intersection over union of a box and the bounding box of its object's pixels
FILLED = 0.25  # least share of a box that pixels of its category must cover to stand for the object


@dataclass(frozen=True)
class MaskedObject:
    """A detected object and its pixels."""

    category: str  # one of DETECTION
    box: Box
    place: Place
    mask: np.ndarray  # bool (H,W)


def object_mask(name: str, output: ParserOutput, index: int) -> Tensor:
    """Return the pixels of a named object, bool (H,W).

    `name` is `[nearest|all] CATEGORY [ahead|left|right]`, where the category is one of labels.DETECTION or
    labels.SEMANTIC, or vehicle; a plural s is allowed. Of objects that are counted (cars, traffic lights) it is the
    nearest, unless all are wanted: the one whose foot is lowest in the image, or the largest light or sign. Ahead, left
    and right are those of `ground.place_of`. A fence that stands there is chosen whole. Of other uncounted categories
    (road, sky), left and right are the halves of the image, and ahead is its middle third.

    `output` holds the image at `index`. Raises BlobexError, which lists what is there, if the category is unknown or
    absent.
    """
    want_all, category, place = _parse_name(name)
    semantic = output.semantic[index].argmax(0).cpu().numpy()
    ground = fit_ground(output.drivable[index].argmax(0).cpu().numpy())
    objects = _detected_objects(output, index, ground)
    if category in COUNTED:
        candidates = [item for item in objects if item.category in COUNTED[category] and place in (None, item.place)]
        # Signals have no foot. Of equals, the surest stays first.
        candidates.sort(key=lambda item: -(area(item.box) if item.category in SIGNALS else item.box[3]))
        masks = [item.mask for item in (candidates if want_all else candidates[:1])]
    elif category == "fence" and place:
        boxes = [(bounding_box(mask), mask) for mask in fence_patches(semantic)]
        masks = [mask for box, mask in boxes if place_of("fence", box, ground, *semantic.shape) == place]
    else:
        left, right = COLUMNS[place] if place else (0.0, 1.0)
        height, width = semantic.shape
        masks = [(semantic == SEMANTIC.index(category)) & box_mask((left * width, 0, right * width, height), 1, width)]
    mask = np.logical_or.reduce([np.zeros(semantic.shape, dtype=bool), *masks])
    if not mask.any():
        counts = Counter(item.category for item in objects)
        present = [f"{count} {kind}" for kind, count in counts.items()]
        present += [kind for kind in UNCOUNTED if (semantic == SEMANTIC.index(kind)).any()]
        where = f" {place}" if place else ""
        raise BlobexError(f"there is no {category}{where} in the image, but {', '.join(present)}: name one of these")
    return torch.from_numpy(mask)


def _detected_objects(output: ParserOutput, index: int, ground: Ground) -> list[MaskedObject]:
    """Return the detected objects of one image by falling score, with their pixels, or boxes if these are unclear."""
    one = output[slice(index, index + 1)].to("cpu")
    (boxes,), (semantic, instances) = detections(one), (maps[0].numpy() for maps in panoptic(one))
    objects = []
    for number, corners in zip(boxes.categories.tolist(), boxes.boxes.tolist(), strict=True):
        category, box = DETECTION[number], cast(Box, tuple(corners))
        mask = _pixels(category, box, semantic, instances)
        objects.append(MaskedObject(category, box, place_of(category, box, ground, *semantic.shape), mask))
    return objects


def _pixels(category: str, box: Box, semantic: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Return the pixels of the object in a box: of the instance there, of its category in the box, or the box."""
    (x, y), (left, top, right, bottom) = centre(box), box
    across, down = max(right - left, 1) / 2, max(bottom - top, 1) / 2  # one pixel at least
    inside = box_mask((x - across, y - down, x + across, y + down), *semantic.shape)
    for number in np.unique(instances[inside]).tolist():
        if number and iou(box, bounding_box(instances == number)) >= SAME_OBJECT:
            return instances == number
    own = inside & (semantic == SEMANTIC.index("person" if category == "pedestrian" else category))
    return own if own.sum() >= FILLED * inside.sum() else inside


def _parse_name(name: str) -> tuple[bool, str, Place | None]:
    """Return whether all are wanted, the category, and the place."""
    words = name.lower().split()
    how_many = words.pop(0) if words and words[0] in ("nearest", "all") else None
    place = cast(Place, words.pop()) if words and words[-1] in COLUMNS else None
    names = {f"{category}{ending}": category for category in (*COUNTED, *UNCOUNTED) for ending in ("", "s", "es")}
    category = names.get(" ".join(words))
    if category is None:
        raise BlobexError(
            f"no object is called {abbreviated(name)}: say [nearest|all] CATEGORY [ahead|left|right], where CATEGORY "
            f"is one of {', '.join((*COUNTED, *UNCOUNTED))}"
        )
    return how_many == "all", category, place
