"""The flat road under a picture: where the ego lane runs, how far things stand, and what its lines are.

The camera is that of the synthetic scenes (`scenes.canvas.Canvas.project`): a pinhole whose focal length is the
picture's height, level, CAMERA_HEIGHT above the road. What differs from picture to picture is fitted to the ego lane's
pixels. In pictures of other cameras, metres are only in proportion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import theilslopes

from blobex.scenes.canvas import CAMERA_HEIGHT
from blobex.scenes.labels import DRIVABLE, SEMANTIC
from blobex.scenes.scene import LANE_WIDTH, Line

HORIZON = 0.42  # where there is no ego lane to fit to: as high as in the middle of all scenes
FULL = 0.85  # share of a row between the lane's edges that must be the lane: else something stands in it
READ = (4.2, 9.5)  # metres ahead between which lines are read: more than one period of dashes
BESIDE = (1.9, 4.5)  # metres from the lane's middle: a lane beside it, seen up to this far ahead
BESIDE_FAR = 8.0
BEYOND = (4.4, 6.6)  # metres from the lane's middle: no road where it ends beside the ego lane and its parking strip
BEYOND_FAR = 16.0
PAINT = 0.3  # metres from a line's middle within which its paint is looked for, at least 1.5 pixels
ASPHALT = (0.6, 1.1)  # metres from a line's middle where there is none
DASHED = 0.2  # share of a line's length without paint from which it is dashed
FAINTEST = 15.0  # grey levels by which paint is lighter than the road
FIRST_THING = SEMANTIC.index("person")
ROAD = SEMANTIC.index("road")
DIRECT, ALTERNATIVE = DRIVABLE.index("direct"), DRIVABLE.index("alternative")


@dataclass(frozen=True)
class Ground:
    """The road plane in one picture; lengths in picture heights, x to the right of the middle, y down from the top."""

    horizon: float = HORIZON
    vanishing: float = 0.0  # x of the ego lane at the horizon
    skew: float = 0.0  # by how much the lane's middle moves to the right, per height below the horizon

    def distance(self, y: float | np.ndarray) -> np.ndarray:
        """Metres ahead to the ground seen at y; infinite at the horizon and above."""
        below = np.maximum(np.asarray(y, dtype=np.float64) - self.horizon, 0)
        with np.errstate(divide="ignore"):
            return CAMERA_HEIGHT / below

    def lateral(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Metres to the right of the ego lane's middle, of the ground seen at (x, y)."""
        below = np.maximum(np.asarray(y, dtype=np.float64) - self.horizon, 1e-6)
        return (x - self.vanishing - self.skew * below) * CAMERA_HEIGHT / below


def fit_ground(drivable: np.ndarray) -> Ground:
    """The plane whose ego lane, LANE_WIDTH wide, covers the pixels marked direct in a map (H,W) of labels.DRIVABLE.

    Rows in which something hides a part of the lane do not count. With fewer than three others, the middle camera.
    """
    height, width = drivable.shape
    rows, middles, widths = [], [], []
    for row in range(height):
        columns = np.flatnonzero(drivable[row] == DIRECT)
        if len(columns) < 4:
            continue
        first, last = columns[0], columns[-1] + 1
        if len(columns) < FULL * (last - first) or first == 0 or last == width:
            continue
        rows.append((row + 0.5) / height)
        middles.append(((first + last) / 2 - width / 2) / height)
        widths.append((last - first) / height)
    y, middle, across = np.array(rows), np.array(middles), np.array(widths)
    horizon = float(np.median(y - across * CAMERA_HEIGHT / LANE_WIDTH)) if rows else math.nan
    if len(rows) < 3 or not 0 < horizon < 1:
        return Ground()
    skew, vanishing, _, _ = theilslopes(middle, y - horizon)  # robust: a car at the lane's edge moves a few rows
    return Ground(horizon, float(vanishing), float(skew))


def read_line(
    side: Literal[-1, 1], ground: Ground, picture: np.ndarray, semantic: np.ndarray, drivable: np.ndarray
) -> Line:
    """What parts the ego lane from what lies left (side -1) or right (+1) of it, by the kinds of `scenes.scene.Line`.

    A drivable lane beside it is parted by a dashed or a solid line, which the picture (H,W,3) uint8 tells apart by its
    gaps; a road without one is oncoming on the left. `semantic` (H,W) holds labels.SEMANTIC, `drivable` (H,W)
    labels.DRIVABLE.
    """
    height, width = drivable.shape
    y = (np.arange(height) + 0.5)[:, None] / height
    x = (np.arange(width) + 0.5 - width / 2)[None] / height
    ahead, across = np.broadcast_to(ground.distance(y), drivable.shape), side * ground.lateral(x, y)

    def share(of: np.ndarray, lateral: tuple[float, float], far: float) -> float:
        inside = (across > lateral[0]) & (across < lateral[1]) & (ahead < far) & (semantic < FIRST_THING)
        return float(of[inside].mean()) if inside.any() else 0.0

    if share(drivable == ALTERNATIVE, BESIDE, BESIDE_FAR) > 0.5:
        return "dashed" if _unpainted(picture, ahead, across, semantic == ROAD) > DASHED else "solid"
    if side < 0 and share(semantic == ROAD, BEYOND, BEYOND_FAR) > 0.5:
        return "double_yellow"
    return "edge"


def _unpainted(picture: np.ndarray, ahead: np.ndarray, across: np.ndarray, road: np.ndarray) -> float:
    """The share of the line's length, within READ metres ahead, where it is not lighter than the road; 1 if nowhere.

    Red and green only: yellow paint is as light as white there.
    """
    light, apart = picture[..., :2].mean(2), np.abs(across - LANE_WIDTH / 2)
    reach = np.maximum(PAINT, 1.5 * ahead / len(picture))
    paint, lengths, plain = [], [], []
    for row in np.flatnonzero((ahead[:, 0] > READ[0]) & (ahead[:, 0] < READ[1])):
        on = road[row] & (apart[row] < reach[row])
        if on.any():
            paint.append(light[row, on].max())
            lengths.append(ahead[row - 1, 0] - ahead[row, 0])
        plain.append(light[row, (apart[row] > ASPHALT[0]) & (apart[row] < ASPHALT[1])])
    if not paint or not any(map(len, plain)):
        return 1.0
    asphalt = np.median(np.concatenate(plain))
    level = asphalt + max((np.quantile(paint, 0.95) - asphalt) / 2, FAINTEST)
    return float(np.average(np.array(paint) < level, weights=lengths))
