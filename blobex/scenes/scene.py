"""Synthetic road scene: an immutable record of its objects, road and camera.

World coordinates are in metres: X to the right of the ego lane's centre, Z ahead of the camera. Images, labels and
causes are functions of the record, so that `dataclasses.replace` edits all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from blobex.core.errors import BlobexError

Colour = tuple[int, int, int]
Kind = Literal["car", "truck", "bus", "motorcycle", "bicycle", "pedestrian", "barrier"]
Place = Literal["left_walk", "left_kerb", "left", "ego", "right", "right_kerb", "right_walk"]
Line = Literal["dashed", "solid", "double_yellow", "edge"]
Light = Literal["none", "red", "green"]
Time = Literal["day", "dusk", "night"]
Weather = Literal["clear", "overcast", "rain", "fog"]
Verge = Literal["sidewalk", "grass"]

LANE_WIDTH = 3.2  # metres
VEHICLES = ("car", "truck", "bus")


@dataclass(frozen=True)
class Thing:
    """Road user or obstacle; a motorcycle or bicycle includes its rider."""

    kind: Kind
    place: Place
    distance: float  # of its nearest face from the camera, metres
    colour: Colour
    offset: float = 0.0  # to the right of the middle of its place, metres


@dataclass(frozen=True)
class Building:
    side: Literal[-1, 1]  # left or right of the road
    near: float  # Z of its nearest and farthest point
    far: float
    height: float  # metres
    setback: float  # metres from the edge of the road
    colour: Colour
    phase: int  # selects the windows that are lit at night


@dataclass(frozen=True)
class Tree:
    side: Literal[-1, 1]
    distance: float  # metres
    setback: float  # metres from the edge of the road
    height: float  # metres
    colour: Colour


@dataclass(frozen=True)
class View:
    """Camera; lengths in the image are in units of its height."""

    horizon: float  # from 0, the top of the image, to 1
    vanishing: float  # vanishing point of the road, to the right of the image's middle
    offset: float  # X of the camera, metres


@dataclass(frozen=True)
class Scene:
    """Road scene.

    The line on each side of the ego lane determines what lies beyond it: `dashed` and `solid` separate it from a lane
    in the same direction, `double_yellow` (left only) from an oncoming lane, and `edge` is the edge of the road. Raises
    BlobexError if a line is invalid, or an object stands in a lane that does not exist.
    """

    seed: int
    line_left: Line
    line_right: Line
    light: Light
    stop_sign: bool
    things: tuple[Thing, ...]
    time: Time
    weather: Weather
    verge: Verge
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    view: View
    light_x: float  # of the traffic light, to the right of the image's middle, in image heights
    dash_phase: float  # shift of the dashes, metres

    def __post_init__(self) -> None:
        if self.line_right == "double_yellow":
            raise BlobexError("line_right is double_yellow, but oncoming traffic is on the left: choose another line")
        for place, line in (("left", self.line_left), ("right", self.line_right)):
            if line not in get_args(Line):
                raise BlobexError(f"unknown line {line!r}: choose one of {', '.join(get_args(Line))}")
            if line == "edge" and any(thing.place == place for thing in self.things):
                raise BlobexError(
                    f"an object stands in the {place} lane, but line_{place} is edge: remove one of the two"
                )

    def edge(self, side: int) -> float:
        """Return the distance of the road's edge on the left (side -1) or right (+1) from X = 0, in metres."""
        line = self.line_left if side < 0 else self.line_right
        return LANE_WIDTH * (0.5 if line == "edge" else 1.5)

    def lateral(self, thing: Thing) -> float:
        """Return X of the middle of a thing, in metres."""
        side = -1 if thing.place.startswith("left") else 1
        if thing.place == "ego":
            middle = 0.0
        elif thing.place in ("left", "right"):
            middle = side * LANE_WIDTH
        else:
            middle = side * (self.edge(side) + (1.35 if thing.place.endswith("kerb") else 3.3))
        return middle + thing.offset
