"""A picture and its label map, painted together, polygon by polygon, from far to near."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from blobex.scenes.labels import DRIVABLE
from blobex.scenes.scene import Colour, Scene, Time, View, Weather

CAMERA_HEIGHT = 2.4  # metres
FINEST = 192  # rows painted at least, whatever the picture's height: antialiasing

Point = tuple[float, float]  # pixels of the painting


@dataclass(frozen=True)
class Segment:
    """What a pixel belongs to. Instances are numbered from 1; 0 is anything not counted."""

    category: str  # a name of labels.PANOPTIC
    instance: int = 0
    drivable: str = "background"


@dataclass(frozen=True)
class Tone:
    """How time and weather colour things: `gain` per channel, then haze that thickens with distance."""

    gain: tuple[float, float, float]
    haze: Colour
    density: float  # per metre
    sky: Colour  # at the top; it fades into the haze at the horizon

    def __call__(self, colour: Colour, distance: float) -> Colour:
        clear = math.exp(-distance * self.density)
        red, green, blue = (
            min(255, int(value * gain * clear + haze * (1 - clear)))
            for value, gain, haze in zip(colour, self.gain, self.haze, strict=True)
        )
        return red, green, blue


class Canvas:
    """Paints at `scale` times the picture's size; `finish` reduces it. The world is projected by a pinhole camera."""

    def __init__(self, scene: Scene, height: int) -> None:
        self.height = height
        self.scale = max(2, round(FINEST / height))
        self.rows = height * self.scale
        self.view: View = scene.view
        self.tone = tone(scene.time, scene.weather)
        self.segments: list[Segment] = [Segment("unlabeled")]
        self.painted: dict[int, int] = {}  # segment index to the pixels that it had when it was complete
        self.extents: dict[int, tuple[float, float, float, float]] = {}
        self.colours = Image.new("RGB", (2 * self.rows, self.rows))
        self.labels = Image.new("L", (2 * self.rows, self.rows))
        self._colour_pen = ImageDraw.Draw(self.colours)
        self._label_pen = ImageDraw.Draw(self.labels)

    def segment(self, category: str, instance: int = 0, drivable: str = "background") -> int:
        """A new segment's index, to paint with."""
        self.segments.append(Segment(category, instance, drivable))
        return len(self.segments) - 1

    def project(self, x: float, y: float, z: float) -> Point:
        """Pixel of the world point x metres right of the lane's centre, y above the ground, z ahead."""
        across = self.view.vanishing + (x - self.view.offset) / z
        down = self.view.horizon + (CAMERA_HEIGHT - y) / z
        return (1 + across) * self.rows, down * self.rows

    def polygon(self, points: Sequence[Point], colour: Colour, index: int | None = None) -> None:
        """Fill a polygon; with `index`, in the label map, too."""
        self._colour_pen.polygon(points, fill=colour)
        if index is not None:
            self._label_pen.polygon(points, fill=index)
            self._extend(index, points)

    def ellipse(self, centre: Point, radius: Point, colour: Colour, index: int | None = None) -> None:
        """Fill an upright ellipse; centre and radii in pixels of the painting."""
        (x, y), (a, b) = centre, radius
        box = (x - a, y - b, x + a, y + b)
        self._colour_pen.ellipse(box, fill=colour)
        if index is not None:
            self._label_pen.ellipse(box, fill=index)
            self._extend(index, (box[:2], box[2:]))

    def face(
        self, x1: float, x2: float, y1: float, y2: float, z: float, colour: Colour, index: int | None = None
    ) -> None:
        """An upright rectangle that faces the camera."""
        (left, bottom), (right, top) = self.project(x1, y1, z), self.project(x2, y2, z)
        self.polygon(((left, bottom), (right, bottom), (right, top), (left, top)), colour, index)

    def ground(self, x1: float, x2: float, z1: float, z2: float, colour: Colour, index: int | None = None) -> None:
        """A rectangle on the ground."""
        project = self.project
        self.polygon((project(x1, 0, z1), project(x2, 0, z1), project(x2, 0, z2), project(x1, 0, z2)), colour, index)

    def complete(self, index: int) -> None:
        """Note how many pixels the segment shows now that it is all painted, to tell later how much was covered."""
        box = self._crop(index)
        if box is not None:
            self.painted[index] = self.labels.crop(box).histogram()[index]

    def truncated(self, index: int) -> bool:
        """Whether the segment reaches beyond the picture."""
        left, top, right, bottom = self.extents[index]
        return (
            left < -self.scale
            or top < -self.scale
            or right > 2 * self.rows + self.scale
            or bottom > self.rows + self.scale
        )

    def finish(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """The picture (H,2H,3) uint8, its segment indices (H,2H) uint8, and the painted pixels per segment."""
        image = np.asarray(self.colours.reduce(self.scale))
        middle = self.scale // 2
        indices = np.asarray(self.labels)[middle :: self.scale, middle :: self.scale]
        return image, np.ascontiguousarray(indices), self.labels.histogram()

    def _extend(self, index: int, points: Sequence[Sequence[float]]) -> None:
        if self.segments[index].instance:
            columns, rows = [point[0] for point in points], [point[1] for point in points]
            left, top, right, bottom = self.extents.get(index, (math.inf, math.inf, -math.inf, -math.inf))
            self.extents[index] = min(left, *columns), min(top, *rows), max(right, *columns), max(bottom, *rows)

    def _crop(self, index: int) -> tuple[int, int, int, int] | None:
        left, top, right, bottom = self.extents[index]
        box = max(0, int(left)), max(0, int(top)), min(2 * self.rows, int(right) + 2), min(self.rows, int(bottom) + 2)
        return box if box[0] < box[2] and box[1] < box[3] else None


def tables(segments: Sequence[Segment], numbers: dict[str, int]) -> np.ndarray:
    """Lookup table from segment index to the number of its category, uint8."""
    return np.array([numbers[segment.category] for segment in segments], dtype=np.uint8)


def drivable_table(segments: Sequence[Segment]) -> np.ndarray:
    """Lookup table from segment index to BDD100K's drivable category, uint8."""
    return np.array([DRIVABLE.index(segment.drivable) for segment in segments], dtype=np.uint8)


def tone(time: Time, weather: Weather) -> Tone:
    """The light of a time of day and a weather."""
    gain, haze, sky = {
        "day": ((1.0, 1.0, 1.0), (206, 222, 236), (92, 150, 222)),
        "dusk": ((0.88, 0.74, 0.70), (238, 158, 104), (86, 84, 138)),
        "night": ((0.58, 0.58, 0.66), (46, 50, 74), (12, 14, 34)),
    }[time]
    grey, density = {
        "clear": (0.0, 1 / 400),
        "overcast": (0.7, 1 / 250),
        "rain": (0.85, 1 / 120),
        "fog": (1.0, 1 / 45),
    }[weather]
    dim = {"clear": 1.0, "overcast": 0.86, "rain": 0.74, "fog": 0.92}[weather]
    return Tone(
        gain=(gain[0] * dim, gain[1] * dim, gain[2] * dim),
        haze=_greyed(haze, grey, dim),
        density=density,
        sky=_greyed(sky, grey, dim),
    )


def _greyed(colour: Colour, amount: float, dim: float) -> Colour:
    mean = sum(colour) / 3
    red, green, blue = (int(dim * (value * (1 - amount) + mean * amount)) for value in colour)
    return red, green, blue
