"""Description of one image in objects, lines and areas, and its conversion to a scene for `scenes.rules`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast, get_args

import numpy as np

from blobex.perception.boxes import Box
from blobex.perception.colours import colour_name
from blobex.perception.ground import Ground, Place
from blobex.scenes.rules import NEAR
from blobex.scenes.scene import LANE_WIDTH, VEHICLES, Kind, Light, Line, Scene, Thing, View
from blobex.scenes.scene import Place as LanePlace

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
        """True if it blocks the lane in which it stands."""
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


SKY = 0.12  # image heights at the top that show mostly sky
DARK = 54.0  # grey levels of the darkest quarter of the sky: night has 47 or less, dusk 59 or more
LANE_EDGE = 1.4 * LANE_WIDTH  # metres; less than 1.5 lanes, as a box shows the side of a vehicle beside the road


def scene_of_reading(reading: SceneReading, image: np.ndarray) -> Scene:
    """Return a scene with all that rules depend on; the image (H,W,3) uint8 tells day, or dusk, from night."""
    return Scene(
        seed=0,
        line_left=reading.line_left,
        line_right=reading.line_right,
        light=cast(Light, reading.light if reading.light in get_args(Light) else "none"),
        stop_sign=reading.stop_sign,
        things=tuple(thing for item in reading.objects if (thing := _thing(item, reading)) is not None),
        time="night" if is_night(image) else "day",
        weather="clear",
        verge="grass" if reading.areas["terrain"] > reading.areas["sidewalk"] else "sidewalk",
        buildings=(),
        trees=(),
        view=View(reading.ground.horizon, reading.ground.vanishing, 0.0),
        light_x=0.0,
        dash_phase=0.0,
    )


def is_night(image: np.ndarray) -> bool:
    """Return whether the darkest quarter of an image's upper rows, sky or buildings, is as dark as only at night.

    >>> is_night(np.zeros((64, 128, 3), np.uint8)), is_night(np.full((64, 128, 3), 150, np.uint8))
    (True, False)
    """
    sky = image[: max(1, int(SKY * len(image)))].mean(axis=2)
    return bool(np.quantile(sky, 0.25) < DARK)


def _thing(item: DetectedObject, reading: SceneReading) -> Thing | None:
    """Convert an object in one of the three lanes, else None. Riders are left out: their cycles are objects already."""
    kind = "barrier" if item.family == "obstacle" else item.category
    if kind not in get_args(Kind) or abs(item.lateral) > LANE_EDGE:
        return None
    place = "ego" if item.place == "ahead" else item.place
    if (place, "edge") in (("left", reading.line_left), ("right", reading.line_right)):
        return None
    return Thing(cast(Kind, kind), cast(LanePlace, place), item.distance, item.colour)
