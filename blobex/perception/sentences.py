"""Differences between two images, in objects and in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from blobex.core.errors import BlobexError
from blobex.perception.boxes import Box, area, centre, iou
from blobex.perception.reading import DetectedObject, SceneReading
from blobex.scenes.labels import SEMANTIC
from blobex.scenes.scene import Scene

ChangeKind = Literal["added", "removed", "moved", "resized", "recoloured", "replaced", "turned", "grew", "shrank"]

SURE = 0.3  # least score of an object that counts as added or removed
SMALLEST = 1 / 1000  # least share of the image's pixels of an object whose change counts
REACH = 0.15  # image widths that an object may have moved
MOVED = 0.03  # least shift of a moved object's centre, in image widths or heights
RESIZED = 1.5  # least factor of a resized object's area
SAME_SIZE = 4.0  # factor of its area from which it is another object
RECOLOURED = 60.0  # least distance between the colours of a recoloured object, grey levels
IMPOSSIBLE = 1000.0  # cost of a pair that cannot be one object
GREW = 0.03  # least change of an area, in shares of the image's pixels
UNCOUNTED = (*SEMANTIC[: SEMANTIC.index("traffic light")], "vegetation", "terrain", "sky")  # compared by area
LINES = {"dashed": "dashed", "solid": "solid", "double_yellow": "double yellow", "edge": "road edge"}


@dataclass(frozen=True)
class ObjectChange:
    """One difference. `before` and `after` are empty where there is nothing to name."""

    what: ChangeKind
    thing: str  # "car", "light", "left line", "sidewalk", "ego lane"
    family: str  # "vehicle" for a car, in most cases equal to `thing`
    place: str  # "ahead", "far ahead", "on the left", "on the right", or empty
    before: str  # colour, category or line; empty for a movement
    after: str  # the same; for a movement its direction
    amount: float  # movement, area: share of the image; size: factor; otherwise the score, 0 to 1
    # Box of the object, where known; of the new one if it is replaced. Records do not hold it.
    box: Box | None = field(default=None, repr=False, compare=False)

    @property
    def phrase(self) -> str:
        """The change in words: "car ahead removed", "light turned from red to green"."""
        return self._words(self.thing, f" by {abs(self.amount):.0%} of the picture")

    @property
    def general(self) -> str:
        """The phrase without details of one image: "vehicle ahead removed", "light turned green"."""
        return self._words(self.family, "")

    def as_dict(self) -> dict[str, Any]:
        """Return the change for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "box"} | {"phrase": self.phrase}

    def _words(self, name: str, amount: str) -> str:
        """Describe the change; in general words if `amount` is empty."""
        subject = f"{name} {self.place}".strip()
        if self.what == "moved":
            return f"{subject} moved {self.after}{amount}"
        if self.what in ("grew", "shrank"):
            return f"{subject} {self.what}{amount}"
        if self.what == "resized":
            return f"{subject} {self.after}"
        if amount and (self.what == "replaced" or self.thing.endswith(" line")):
            return f"{subject} became {self.after}"
        if self.what in ("turned", "recoloured") and amount:
            return f"{subject} turned from {self.before} to {self.after}"
        return f"{subject} turned {self.after}" if self.what == "turned" else f"{subject} {self.what}"


def differences(before: SceneReading, after: SceneReading) -> list[ObjectChange]:
    """List what changed from `before` to `after`: signals, objects, lines, then areas.

    Objects are paired so that the sum of the pairs' distances is smallest (see `matches`). An object with a low score
    can be a partner, but is neither added nor removed. Raises BlobexError if the images differ in size.
    """
    if before.size != after.size:
        raise BlobexError(f"readings of {before.size} and {after.size} pixels cannot be compared: read both alike")
    return [*_signals(before, after), *_objects(before, after), *_lines(before, after), *_areas(before, after)]


def general_phrases(before: SceneReading, after: SceneReading, scenes: tuple[Scene, Scene] | None) -> list[str]:
    """List the changes between two images in general words, each once: objects and areas, then time and verge.

    `scenes` are those of the readings (`scene_of_reading`), which know the last two; None: they are left out.
    """
    phrases = [change.general for change in differences(before, after)]
    if scenes is not None:
        pairs = [(name, *(getattr(scene, name) for scene in scenes)) for name in ("time", "verge")]
        phrases += [f"{name} turned {new}" for name, old, new in pairs if old != new]
    return list(dict.fromkeys(phrases))


def general_name(item: DetectedObject) -> str:
    """Return how general phrases call an object, such as "vehicle on the left"."""
    return _change("added", item, "", "", item.score).general.removesuffix(" added")


def sentence(changes: Sequence[ObjectChange]) -> str:
    """Join the phrases of changes with semicolons.

    >>> sentence([ObjectChange("removed", "car", "vehicle", "ahead", "", "", 0.9)])
    'car ahead removed'
    """
    return "; ".join(dict.fromkeys(change.phrase for change in changes)) or "nothing that the parser sees changed"


def summary(explanations: Sequence[Sequence[ObjectChange]]) -> dict[str, float]:
    """Compute the share of explanations in which each change occurs, by its general phrase, most frequent first.

    >>> summary([[ObjectChange("removed", "car", "vehicle", "ahead", "", "", 0.9)], []])
    {'vehicle ahead removed': 0.5}
    """
    if not explanations:
        raise BlobexError("there are no explanations to sum up: explain some images first")
    counts = Counter(phrase for changes in explanations for phrase in sorted({change.general for change in changes}))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {phrase: count / len(explanations) for phrase, count in ordered}


def matches(old: Sequence[DetectedObject], new: Sequence[DetectedObject], width: int) -> list[tuple[int, int]]:
    """Pair objects of one family, close and of similar size, at least cost (Kuhn, 1955); return pairs of indices."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    if not old or not new:
        return []
    cost = np.array([[_cost(one, other, width) for other in new] for one in old])
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < IMPOSSIBLE]


def _cost(one: DetectedObject, other: DetectedObject, width: int) -> float:
    """Return 0 for the same box to 3, and IMPOSSIBLE for two different objects."""
    (x, y), (a, b) = centre(one.box), centre(other.box)
    distance = math.hypot(a - x, b - y) / (REACH * width)
    scale = abs(math.log(max(area(other.box), 1e-9) / max(area(one.box), 1e-9), SAME_SIZE))
    if one.family != other.family or max(distance, scale) >= 1:
        return IMPOSSIBLE
    return distance + scale + 1 - iou(one.box, other.box)


def _signals(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    (old, old_box), (new, new_box) = (_surest_light(reading) for reading in (before, after))
    if old and new and before.light != after.light:
        was, now = (reading.light.replace("none", "dark") for reading in (before, after))
        yield ObjectChange("turned", "light", "light", "", was, now, min(old, new))
    elif old >= SURE and not new:
        yield _plain("removed", f"{before.light} light".replace("none", "dark"), old, old_box)
    elif new >= SURE and not old:
        yield _plain("added", f"{after.light} light".replace("none", "dark"), new, new_box)
    if before.stop_sign != after.stop_sign:
        yield _plain("added" if after.stop_sign else "removed", "stop sign", 1.0)


def _surest_light(reading: SceneReading) -> tuple[float, Box | None]:
    """Return score and box of the traffic light with the highest score; 0 and None without one."""
    lights = [(item.score, item.box) for item in reading.objects if item.category == "traffic light"]
    return max(lights, key=lambda light: light[0], default=(0.0, None))


def _objects(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    """Compare all but signals, and no traffic signs if one is a stop sign: a reading does not say which."""
    signals = {"traffic light", *(["traffic sign"] if before.stop_sign or after.stop_sign else [])}
    old, new = ([item for item in reading.objects if item.category not in signals] for reading in (before, after))
    pairs = matches(old, new, before.size[1])
    smallest = SMALLEST * math.prod(before.size)
    for i, j in pairs:
        if min(area(old[i].box), area(new[j].box)) >= 2 * smallest:  # smaller boxes vary with the noise
            yield from _alterations(old[i], new[j], before.size)
    sides: tuple[tuple[ChangeKind, list[DetectedObject], set[int]], ...] = (
        ("removed", old, {i for i, _ in pairs}),
        ("added", new, {j for _, j in pairs}),
    )
    for what, objects, paired in sides:
        for index, item in enumerate(objects):
            if index not in paired and item.score >= SURE and area(item.box) >= smallest:
                yield _change(what, item, "", "", item.score)


def _alterations(one: DetectedObject, other: DetectedObject, size: tuple[int, int]) -> Iterator[ObjectChange]:
    """Compare two readings of one object. Its size counts only if it stays where it is: coming nearer, it grows too."""
    if min(one.score, other.score) >= SURE and one.category != other.category and one.family != "obstacle":
        change = _change("replaced", one, one.category, other.category, min(one.score, other.score))
        yield replace(change, box=other.box)
    across, down = (
        (b - a) / length for a, b, length in zip(centre(one.box), centre(other.box), size[::-1], strict=True)
    )
    factor = area(other.box) / area(one.box)
    if max(abs(across), abs(down)) >= MOVED:
        directions = ("left", "right") if abs(across) >= abs(down) else ("farther", "nearer")
        furthest = max(across, down, key=abs)
        yield _change("moved", one, "", directions[int(furthest > 0)], abs(furthest))
    elif max(factor, 1 / factor) >= RESIZED:
        yield _change("resized", one, "", "became larger" if factor > 1 else "became smaller", factor)
    renamed = one.colour_name != other.colour_name and one.family != "obstacle"
    if renamed and math.dist(one.colour, other.colour) >= RECOLOURED:
        yield _change("recoloured", one, one.colour_name, other.colour_name, other.score)


def _lines(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    for name, old, new in (
        ("left line", before.line_left, after.line_left),
        ("right line", before.line_right, after.line_right),
    ):
        if old != new:
            yield ObjectChange("turned", name, name, "", LINES[old], LINES[new], 1.0)


def _areas(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    shares = [(name, before.areas[name], after.areas[name]) for name in UNCOUNTED]
    shares += [("ego lane", before.direct, after.direct), ("other lanes", before.alternative, after.alternative)]
    for name, old, new in shares:
        if abs(new - old) >= GREW:
            yield _plain("grew" if new > old else "shrank", name, new - old)


def _plain(what: ChangeKind, thing: str, amount: float, box: Box | None = None) -> ObjectChange:
    return ObjectChange(what, thing, thing, "", "", "", amount, box)


def _change(what: ChangeKind, item: DetectedObject, before: str, after: str, amount: float) -> ObjectChange:
    place = f"on the {item.place}"
    if item.category == "traffic sign":
        place = ""
    elif item.place == "ahead":
        place = "ahead" if item.near else "far ahead"
    return ObjectChange(what, item.category, item.family, place, before, after, amount, item.box)
