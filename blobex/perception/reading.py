"""Description of one image in objects, lines and areas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blobex.perception.boxes import Box
from blobex.perception.colours import colour_name
from blobex.perception.ground import Ground, Place
from blobex.scenes.rules import NEAR
from blobex.scenes.scene import VEHICLES, Line

# Category to the family within which the parser may confuse it. The parser sees a barrier as a fence.
FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(VEHICLES, "vehicle"),
    **dict.fromkeys(("bicycle", "motorcycle"), "cycle"),
    "fence": "obstacle",
}


@dataclass(frozen=True)
class DetectedObject:
    """One object of an image; metres are those of `perception.ground`."""

    category: str  # one of labels.DETECTION, fence, or obstacle: something unknown that hides the ego lane
    box: Box
    score: float  # 0 to 1
    colour: tuple[int, int, int]  # median of its pixels
    place: Place
    lateral: float  # metres from the middle of the ego lane to that of its foot, to the right
    distance: float  # metres ahead to its foot; infinite for what does not stand on the road

    @property
    def family(self) -> str:
        """Vehicle, cycle, obstacle, or the category itself."""
        return FAMILIES.get(self.category, self.category)

    @property
    def near(self) -> bool:
        """Whether it blocks the lane in which it stands."""
        return self.distance <= NEAR

    @property
    def colour_name(self) -> str:
        return colour_name(self.colour)


@dataclass(frozen=True)
class SceneReading:
    """Content of one image."""

    objects: tuple[DetectedObject, ...]  # boxes by falling score, then objects found by their pixels only
    light: str  # red, yellow, green, or none: no traffic light or a dark one
    stop_sign: bool
    line_left: Line  # line on the left of the ego lane; `edge` if the road ends there
    line_right: Line
    areas: Mapping[str, float]  # share of the image's pixels of each category of labels.SEMANTIC
    direct: float  # share of the image's pixels of the ego lane
    alternative: float  # the same of other drivable lanes
    ground: Ground = field(repr=False)
    size: tuple[int, int]  # height and width, pixels
