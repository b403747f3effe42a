"""What changed between two pictures, in objects and in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from blobex.core.errors import BlobexError
from blobex.perception.reading import SceneReading, SeenObject, overlap
from blobex.scenes.labels import SEMANTIC

What = Literal["added", "removed", "moved", "resized", "recoloured", "replaced", "turned", "grew", "shrank"]

SURE = 0.3  # score from which an object that has no counterpart was added or removed
SMALLEST = 1 / 1000  # share of the picture's pixels that an object covers at least if its change counts
REACH = 0.15  # picture widths that an object may have moved
MOVED = 0.03  # picture widths or heights by which its middle moves
RESIZED = 1.5  # factor of its area
ALIKE = 4.0  # factor of its area from which it is another object
RECOLOURED = 60.0  # distance of colours, grey levels
IMPOSSIBLE = 1000.0  # cost of a pair that cannot be one object
AREA = 0.03  # share of the picture's pixels
STUFF = SEMANTIC[: SEMANTIC.index("traffic light")]  # what has no boxes of its own
LAND = ("vegetation", "terrain", "sky")
LINES = {"dashed": "dashed", "solid": "solid", "double_yellow": "double yellow", "edge": "road edge"}


@dataclass(frozen=True)
class ObjectChange:
    """One change. `before` and `after` are empty where there is nothing to name."""

    what: What
    thing: str  # "car", "light", "left line", "sidewalk", "ego lane"
    family: str  # "vehicle" for a car, else as a rule the thing itself
    place: str  # "ahead", "on the left" or "on the right", "far ahead", or empty
    before: str  # colour, category or line; of a movement empty
    after: str  # the same; of a movement its direction
    amount: float  # movement: share of the picture; size: factor; area: share; else the score, 0 to 1

    @property
    def phrase(self) -> str:
        """In words: "car ahead removed", "light turned from red to green"."""
        return self._words(self.thing, f" by {abs(self.amount):.0%} of the picture")

    @property
    def general(self) -> str:
        """The same without what differs from picture to picture: "vehicle ahead removed", "light turned green"."""
        return self._words(self.family, "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"phrase": self.phrase}

    def _words(self, name: str, by: str) -> str:
        subject = f"{name} {self.place}".strip()
        if self.what == "moved":
            return f"{subject} moved {self.after}{by}"
        if self.what in ("grew", "shrank"):
            return f"{subject} {self.what}{by}"
        if self.what == "resized":
            return f"{subject} {self.after}"
        if self.what == "replaced":
            return f"{subject} became {self.after}" if by else f"{subject} replaced"
        if self.what == "turned":
            return f"{subject} turned from {self.before} to {self.after}" if by else f"{subject} turned {self.after}"
        if self.what == "recoloured" and by:
            return f"{subject} turned from {self.before} to {self.after}"
        return f"{subject} {self.what}"


def differences(before: SceneReading, after: SceneReading) -> list[ObjectChange]:
    """What is otherwise in `after`: signals, objects, lines, lanes, then areas. BlobexError: pictures of two sizes.

    Objects of one family that lie on or near each other are the same object: they are paired so that the sum of their
    distances is smallest. What the parser is not sure of is paired, but neither added nor removed.
    """
    if before.size != after.size:
        raise BlobexError(f"readings of {before.size} and {after.size} pixels cannot be compared: read both alike")
    return [*_signals(before, after), *_objects(before, after), *_lines(before, after), *_areas(before, after)]


def sentence(changes: Sequence[ObjectChange]) -> str:
    """The changes in words, parted by semicolons.

    >>> sentence([ObjectChange("removed", "car", "vehicle", "ahead", "", "", 0.9)])
    'car ahead removed'
    """
    return "; ".join(dict.fromkeys(change.phrase for change in changes)) or "nothing that the parser sees changed"


def summary(explanations: Sequence[Sequence[ObjectChange]]) -> dict[str, float]:
    """The share of explanations in which each change occurs, by its general phrase; the most frequent first.

    BlobexError if there are no explanations.

    >>> summary([[ObjectChange("removed", "car", "vehicle", "ahead", "", "", 0.9)], []])
    {'vehicle ahead removed': 0.5}
    """
    if not explanations:
        raise BlobexError("there are no explanations to sum up: explain some pictures first")
    counts = Counter(phrase for changes in explanations for phrase in sorted({each.general for each in changes}))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {phrase: count / len(explanations) for phrase, count in ordered}


def _signals(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    old, new = (_light(reading) for reading in (before, after))
    if old and new and before.light != after.light:
        was, now = (reading.light.replace("none", "dark") for reading in (before, after))
        yield ObjectChange("turned", "light", "light", "", was, now, min(old, new))
    elif old >= SURE and not new:
        yield _simple("removed", _shown(before.light), old)
    elif new >= SURE and not old:
        yield _simple("added", _shown(after.light), new)
    if before.stop_sign != after.stop_sign:
        yield _simple("added" if after.stop_sign else "removed", "stop sign", 1.0)


def _light(reading: SceneReading) -> float:
    """The score of the surest traffic light, 0 if there is none."""
    return max((each.score for each in reading.objects if each.category == "traffic light"), default=0.0)


def _shown(light: str) -> str:
    return "dark light" if light == "none" else f"{light} light"


def _objects(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    """Changes of all but traffic lights and, where there is a stop sign, traffic signs: `_signals` compares these.

    A reading does not say which of several signs is the stop sign.
    """
    signals = {"traffic light", *(["traffic sign"] if before.stop_sign or after.stop_sign else [])}
    old, new = ([each for each in seen.objects if each.category not in signals] for seen in (before, after))
    pairs = matches(old, new, before.size[1])
    smallest = SMALLEST * math.prod(before.size)
    for i, j in pairs:
        if min(_area(old[i]), _area(new[j])) >= 2 * smallest:  # smaller boxes vary with the noise
            yield from _altered(old[i], new[j], before.size)
    sides: tuple[tuple[What, list[SeenObject], set[int]], ...] = (
        ("removed", old, {i for i, _ in pairs}),
        ("added", new, {j for _, j in pairs}),
    )
    for what, seen, paired in sides:
        for number, each in enumerate(seen):
            if number not in paired and each.score >= SURE and _area(each) >= smallest:
                yield _change(what, each, "", "", each.score)


def matches(old: Sequence[SeenObject], new: Sequence[SeenObject], width: int) -> list[tuple[int, int]]:
    """Pairs (number in `old`, number in `new`) of what is the same object: of one family, close, alike in size."""
    if not old or not new:
        return []
    cost = np.array([[_cost(one, other, width) for other in new] for one in old])
    return [(int(i), int(j)) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < IMPOSSIBLE]


def _cost(one: SeenObject, other: SeenObject, width: int) -> float:
    """From 0 for the same box to 3; far more for what cannot be one object."""
    (x, y), (a, b) = _middle(one), _middle(other)
    apart = math.hypot(a - x, b - y) / (REACH * width)
    scaled = abs(math.log(max(_area(other), 1e-9) / max(_area(one), 1e-9), ALIKE))
    if one.family != other.family or max(apart, scaled) >= 1:
        return IMPOSSIBLE
    return apart + scaled + 1 - overlap(one.box, other.box)


def _altered(one: SeenObject, other: SeenObject, size: tuple[int, int]) -> Iterator[ObjectChange]:
    """How an object differs; size counts where it stays at its place, as it grows by coming nearer, too."""
    if min(one.score, other.score) >= SURE and one.category != other.category and one.family != "obstacle":
        yield _change("replaced", one, one.category, other.category, min(one.score, other.score))
    across, down = ((b - a) / length for a, b, length in zip(_middle(one), _middle(other), size[::-1], strict=True))
    factor = _area(other) / _area(one)
    if max(abs(across), abs(down)) >= MOVED:
        sideways = ("left", "right") if abs(across) >= abs(down) else ("farther", "nearer")
        furthest = max(across, down, key=abs)
        yield _change("moved", one, "", sideways[int(furthest > 0)], abs(furthest))
    elif max(factor, 1 / factor) >= RESIZED:
        yield _change("resized", one, "", "became larger" if factor > 1 else "became smaller", factor)
    named = one.colour_name != other.colour_name and one.family != "obstacle"
    if named and math.dist(one.colour, other.colour) >= RECOLOURED:
        yield _change("recoloured", one, one.colour_name, other.colour_name, other.score)


def _lines(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    for side, old, new in (
        ("left line", before.line_left, after.line_left),
        ("right line", before.line_right, after.line_right),
    ):
        if old != new:
            yield ObjectChange("turned", side, side, "", LINES[old], LINES[new], 1.0)


def _areas(before: SceneReading, after: SceneReading) -> Iterator[ObjectChange]:
    shares = [(name, before.areas[name], after.areas[name]) for name in (*STUFF, *LAND)]
    shares += [("ego lane", before.direct, after.direct), ("other lanes", before.alternative, after.alternative)]
    for name, old, new in shares:
        if abs(new - old) >= AREA:
            yield _simple("grew" if new > old else "shrank", name, new - old)


def _simple(what: What, thing: str, amount: float) -> ObjectChange:
    return ObjectChange(what, thing, thing, "", "", "", amount)


def _change(what: What, seen: SeenObject, before: str, after: str, amount: float) -> ObjectChange:
    if seen.category == "traffic sign":
        place = ""
    elif seen.place == "ahead":
        place = "ahead" if seen.near else "far ahead"
    else:
        place = f"on the {seen.place}"
    return ObjectChange(what, seen.category, seen.family, place, before, after, amount)


def _middle(seen: SeenObject) -> tuple[float, float]:
    x1, y1, x2, y2 = seen.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def _area(seen: SeenObject) -> float:
    x1, y1, x2, y2 = seen.box
    return (x2 - x1) * (y2 - y1)
