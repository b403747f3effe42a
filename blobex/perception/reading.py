"""What one picture shows, in objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from blobex.perception.colours import colour_name
from blobex.perception.ground import Ground
from blobex.scenes.rules import NEAR
from blobex.scenes.scene import LANE_WIDTH, VEHICLES, Line

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

# What an object stays when the parser takes it for another of its kind. A barrier is a fence where the parser says so.
FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(VEHICLES, "vehicle"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle"),
    "fence": "obstacle",
}


@dataclass(frozen=True)
class SeenObject:
    """One object; metres are those of `metrics.ground`."""

    category: str  # one of labels.DETECTION, fence, or obstacle: the parser knows no more
    box: Box
    score: float  # 0 to 1
    colour: tuple[int, int, int]  # median of its pixels
    lateral: float  # metres from the ego lane's middle to its foot's, to the right
    distance: float  # metres ahead to its foot; infinite for what does not stand on the road

    @property
    def family(self) -> str:
        """Vehicle, cycle, obstacle, or the category itself."""
        return FAMILIES.get(self.category, self.category)

    @property
    def place(self) -> str:
        """`ahead` if its foot is in the ego lane, else `left` or `right`."""
        if abs(self.lateral) <= LANE_WIDTH / 2:
            return "ahead"
        return "left" if self.lateral < 0 else "right"

    @property
    def near(self) -> bool:
        """Whether it blocks the lane that it stands in."""
        return self.distance <= NEAR

    @property
    def colour_name(self) -> str:
        return colour_name(self.colour)


@dataclass(frozen=True)
class SceneReading:
    """What one picture shows."""

    objects: tuple[SeenObject, ...]  # boxes, the surest first, then what only the pixels show
    light: str  # red, yellow, green, or none if there is no traffic light or a dark one
    stop_sign: bool
    line_left: Line  # what parts the ego lane from what lies beside it; `edge` where the road ends
    line_right: Line
    areas: Mapping[str, float]  # share of the picture's pixels of each category of labels.SEMANTIC
    direct: float  # share of the picture's pixels of the ego lane
    alternative: float  # and of the other lanes that one may drive in
    ground: Ground = field(repr=False)
    size: tuple[int, int]  # height and width, pixels

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        objects = [asdict(each) | {"place": each.place, "near": each.near} for each in self.objects]
        for each in objects:
            each["distance"] = each["distance"] if math.isfinite(each["distance"]) else None
        return asdict(self) | {"objects": objects, "areas": dict(self.areas)}


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(across, 0) * max(down, 0)
    total = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / total if total > 0 else 0.0
