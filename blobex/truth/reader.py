"""What a rule, not the model, says of pictures: read from them by the parser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from blobex.explain.explainer import Explainer
from blobex.perception.differences import differences
from blobex.perception.reading import SceneReading
from blobex.perception.rule import scene_of_reading
from blobex.scenes.rules import ACTIONS, Rule
from blobex.scenes.scene import Scene


@dataclass(frozen=True)
class Seen:
    """One picture."""

    allowed: Mapping[str, bool]  # what the rule says of each of `rules.ACTIONS`
    reading: SceneReading | None = field(default=None, repr=False)  # None: no words about it
    scene: Scene | None = field(default=None, repr=False)  # as far as rules look at scenes


Reader = Callable[[Sequence[np.ndarray]], list[Seen]]


def parser_reader(explainer: Explainer, rule: Rule) -> Reader:
    """The reader of pictures, uint8 (H,W,3), of an explainer that has a parser."""

    def read(pictures: Sequence[np.ndarray]) -> list[Seen]:
        seen = []
        for picture, reading in zip(pictures, explainer.readings(pictures), strict=True):
            scene = scene_of_reading(reading, picture)
            seen.append(Seen(dict(zip(ACTIONS, rule.actions(scene), strict=True)), reading, scene))
        return seen

    return read


def phrases(before: Seen, after: Seen) -> list[str]:
    """What changed, in general words, each once: objects and areas, then night and verge as rules see them."""
    if before.reading is None or after.reading is None:
        return []
    told = [change.general for change in differences(before.reading, after.reading)]
    if before.scene and after.scene:
        pairs = (("time", before.scene.time, after.scene.time), ("verge", before.scene.verge, after.scene.verge))
        told += [f"{name} turned {new}" for name, old, new in pairs if old != new]
    return list(dict.fromkeys(told))
