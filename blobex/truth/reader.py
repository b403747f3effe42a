"""Decisions of a rule about images: a parser reads the scene of each image, to which the rule is applied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from blobex.explain.explainer import Explainer
from blobex.perception.differences import differences
from blobex.perception.reading import SceneReading, scene_of_reading
from blobex.scenes.rules import ACTIONS, Rule
from blobex.scenes.scene import Scene


@dataclass(frozen=True)
class ReadImage:
    """The decisions of a rule about one image."""

    allowed: Mapping[str, bool]  # decision for each of `rules.ACTIONS`
    reading: SceneReading | None = field(default=None, repr=False)  # needed for phrases
    scene: Scene | None = field(default=None, repr=False)  # as far as rules depend on it


ImageReader = Callable[[Sequence[np.ndarray]], list[ReadImage]]


def parser_reader(explainer: Explainer, rule: Rule) -> ImageReader:
    """Return a reader of images, uint8 (H,W,3), that uses the explainer's parser."""

    def read(images: Sequence[np.ndarray]) -> list[ReadImage]:
        read_images = []
        for image, reading in zip(images, explainer.readings(images), strict=True):
            scene = scene_of_reading(reading, image)
            read_images.append(ReadImage(dict(zip(ACTIONS, rule.actions(scene), strict=True)), reading, scene))
        return read_images

    return read


def change_phrases(before: ReadImage, after: ReadImage) -> list[str]:
    """List the changes between two images as general phrases, each once: objects and areas, then time and verge."""
    if before.reading is None or after.reading is None:
        return []
    phrases = [change.general for change in differences(before.reading, after.reading)]
    if before.scene and after.scene:
        pairs = (("time", before.scene.time, after.scene.time), ("verge", before.scene.verge, after.scene.verge))
        phrases += [f"{name} turned {new}" for name, old, new in pairs if old != new]
    return list(dict.fromkeys(phrases))
