"""Canvas that paints an image and its segment map together, polygon by polygon, from far to near."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from blobex.scenes.scene import Colour, Scene, Time, View, Weather

CAMERA_HEIGHT = 2.4  # metres
FINEST = 192  # minimum number of rows to paint; the excess over the image's height serves antialiasing

Point = tuple[float, float]  # pixels of the canvas
WorldPoint = tuple[float, float, float]  # metres: X, height above the ground, Z


@dataclass(frozen=True)
class Segment:
    """Segment of pixels; instances are numbered from 1, and 0 is stuff."""

    category: str  # one of labels.PANOPTIC
    instance: int = 0
    drivable: str = "background"


@dataclass(frozen=True)
class Tone:
    """Effect of time and weather on colours: a gain per channel, then haze that increases with distance."""

    gain: tuple[float, float, float]
    haze: Colour
    density: float  # per metre
    sky: Colour  # colour at the top, which fades into the haze at the horizon

    def __call__(self, colour: Colour, distance: float) -> Colour:
        """Return the apparent colour of a surface at a distance in metres."""
        clear = math.exp(-distance * self.density)
        red, green, blue = (
            min(255, int(value * gain * clear + haze * (1 - clear)))
            for value, gain, haze in zip(colour, self.gain, self.haze, strict=True)
        )
        return red, green, blue


class Canvas:
    """Image and segment map at `scale` times the image's size, onto which a pinhole camera projects the world."""

    def __init__(self, scene: Scene, height: int) -> None:
        self.height = height
        self.scale = max(2, round(FINEST / height))
        self.rows = height * self.scale
        self.view: View = scene.view
        self.tone = tone(scene.time, scene.weather)
        self.segments: list[Segment] = [Segment("unlabeled")]
        self.painted: dict[int, int] = {}  # segment index to its number of pixels before it was occluded
        self.extents: dict[int, tuple[float, float, float, float]] = {}
        self.colours = Image.new("RGB", (2 * self.rows, self.rows))
        self.labels = Image.new("L", (2 * self.rows, self.rows))
        self._colour_pen = ImageDraw.Draw(self.colours)
        self._label_pen = ImageDraw.Draw(self.labels)

    def segment(self, category: str, instance: int = 0, drivable: str = "background") -> int:
        """Add a segment and return its index."""
        self.segments.append(Segment(category, instance, drivable))
        return len(self.segments) - 1

    def project(self, x: float, y: float, z: float) -> Point:
        """Return the pixel of a world point."""
        across = self.view.vanishing + (x - self.view.offset) / z
        down = self.view.horizon + (CAMERA_HEIGHT - y) / z
        return (1 + across) * self.rows, down * self.rows

    def polygon(self, points: Sequence[Point], colour: Colour, index: int | None = None) -> None:
        """Fill a polygon, in the segment map too if `index` is given."""
        self._colour_pen.polygon(points, fill=colour)
        if index is not None:
            self._label_pen.polygon(points, fill=index)
            self._extend(index, points)

    def ellipse(self, centre: Point, radius: Point, colour: Colour, index: int | None = None) -> None:
        """Fill an upright ellipse; centre and radii are in pixels of the canvas."""
        (x, y), (a, b) = centre, radius
        box = (x - a, y - b, x + a, y + b)
        self._colour_pen.ellipse(box, fill=colour)
        if index is not None:
            self._label_pen.ellipse(box, fill=index)
            self._extend(index, (box[:2], box[2:]))

    def face(
        self, x1: float, x2: float, y1: float, y2: float, z: float, colour: Colour, index: int | None = None
    ) -> None:
        """Fill an upright rectangle that faces the camera."""
        (left, bottom), (right, top) = self.project(x1, y1, z), self.project(x2, y2, z)
        self.polygon(((left, bottom), (right, bottom), (right, top), (left, top)), colour, index)

    def ground(self, x1: float, x2: float, z1: float, z2: float, colour: Colour, index: int | None = None) -> None:
        """Fill a rectangle on the ground."""
        self.surface(((x1, 0, z1), (x2, 0, z1), (x2, 0, z2), (x1, 0, z2)), colour, index)

    def wall(
        self, x: float, y1: float, y2: float, z1: float, z2: float, colour: Colour, index: int | None = None
    ) -> None:
        """Fill an upright rectangle that is parallel to the road."""
        self.surface(((x, y1, z1), (x, y2, z1), (x, y2, z2), (x, y1, z2)), colour, index)

    def surface(self, corners: Sequence[WorldPoint], colour: Colour, index: int | None = None) -> None:
        """Fill a polygon of world points."""
        self.polygon([self.project(*corner) for corner in corners], colour, index)

    def complete(self, index: int) -> None:
        """Record the number of visible pixels of a segment that is fully painted, before others occlude it."""
        left, top, right, bottom = self.extents[index]
        box = max(0, int(left)), max(0, int(top)), min(2 * self.rows, int(right) + 2), min(self.rows, int(bottom) + 2)
        if box[0] < box[2] and box[1] < box[3]:
            self.painted[index] = self.labels.crop(box).histogram()[index]

    def truncated(self, index: int) -> bool:
        """Return whether the segment extends beyond the image."""
        left, top, right, bottom = self.extents[index]
        width, height = 2 * self.rows, self.rows
        return min(left, top) < -self.scale or right > width + self.scale or bottom > height + self.scale

    def finish(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Return the image (H,2H,3) uint8, the segment indices (H,2H) uint8 and each segment's pixels on the canvas."""
        image = np.asarray(self.colours.reduce(self.scale))
        middle = self.scale // 2
        indices = np.asarray(self.labels)[middle :: self.scale, middle :: self.scale]
        return image, np.ascontiguousarray(indices), self.labels.histogram()

    def _extend(self, index: int, points: Sequence[Sequence[float]]) -> None:
        if self.segments[index].instance:
            columns, rows = [point[0] for point in points], [point[1] for point in points]
            left, top, right, bottom = self.extents.get(index, (math.inf, math.inf, -math.inf, -math.inf))
            self.extents[index] = min(left, *columns), min(top, *rows), max(right, *columns), max(bottom, *rows)


def tone(time: Time, weather: Weather) -> Tone:
    """Return the tone of a time of day and a weather."""
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
