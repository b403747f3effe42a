"""What a synthetic road scene is: an immutable record of everything that stands in it.

Metres, seen from a camera above the ego lane: X to the right of the ego lane's centre, Z ahead. Pictures, labels and
causes all follow from this record, so an edited scene (`dataclasses.replace`) shows what the edit changes.
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
    """A road user or obstacle. A motorcycle or a bicycle carries its rider."""

    kind: Kind
    place: Place
    distance: float  # metres from the camera to its nearest face
    colour: Colour
    offset: float = 0.0  # metres to the right of the middle of its place


@dataclass(frozen=True)
class Building:
    side: Literal[-1, 1]  # left or right of the road
    near: float  # metres ahead where it begins and ends
    far: float
    height: float  # metres
    setback: float  # metres from the edge of the road
    colour: Colour
    phase: int  # which of its windows are lit at night


@dataclass(frozen=True)
class Tree:
    side: Literal[-1, 1]
    distance: float  # metres
    setback: float  # metres from the edge of the road
    height: float  # metres
    colour: Colour


@dataclass(frozen=True)
class View:
    """The camera; lengths in units of the picture's height."""

    horizon: float  # 0 at the top of the picture, 1 at its bottom
    vanishing: float  # of the road, to the right of the picture's middle
    offset: float  # metres to the right of the ego lane's centre


@dataclass(frozen=True)
class Scene:
    """One road scene. Raises BlobexError where a line or an object has no lane to belong to.

    The line left (right) of the ego lane says what lies beyond it: `dashed` and `solid` part it from a lane in the same
    direction, `double_yellow` (left only) from an oncoming lane, and `edge` is where the road ends.
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
    light_x: float  # of the traffic light: to the right of the picture's middle, in picture heights
    dash_phase: float  # metres by which the dashes are shifted

    def __post_init__(self) -> None:
        if self.line_right == "double_yellow":
            raise BlobexError(
                "line_right cannot be double_yellow: oncoming traffic is on the left, choose another line"
            )
        for place, line in (("left", self.line_left), ("right", self.line_right)):
            if line not in get_args(Line):
                raise BlobexError(f"unknown line {line!r}: choose one of {', '.join(get_args(Line))}")
            if line == "edge" and any(thing.place == place for thing in self.things):
                raise BlobexError(
                    f"an object stands in the {place} lane, but line_{place} is edge: remove one of the two"
                )

    @property
    def lanes(self) -> int:
        """Lanes in the ego vehicle's direction, 1 to 3."""
        return 1 + sum(line in ("dashed", "solid") for line in (self.line_left, self.line_right))

    @property
    def ego_lane(self) -> int:
        """Index of the ego lane, counted from the left."""
        return int(self.line_left in ("dashed", "solid"))

    def edge(self, side: int) -> float:
        """X of the road's edge (metres, without sign) on the left (side -1) or right (+1)."""
        line = self.line_left if side < 0 else self.line_right
        return LANE_WIDTH * (0.5 if line == "edge" else 1.5)

    def lateral(self, thing: Thing) -> float:
        """X of the middle of a thing, metres."""
        side = -1 if thing.place.startswith("left") else 1
        if thing.place == "ego":
            middle = 0.0
        elif thing.place in ("left", "right"):
            middle = side * LANE_WIDTH
        else:
            middle = side * (self.edge(side) + (1.35 if thing.place.endswith("kerb") else 3.3))
        return middle + thing.offset
