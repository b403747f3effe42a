"""Ground plane of a road image: position and distance relative to the ego lane, and the lines of that lane.

The camera is the one of the synthetic scenes (`scenes.canvas.Canvas.project`): a level pinhole, CAMERA_HEIGHT above the
road, with a focal length of one image height. The rest is fitted to the pixels of the ego lane. In images of other
cameras all metres are off by a common factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from blobex.perception.boxes import Box
from blobex.scenes.canvas import CAMERA_HEIGHT
from blobex.scenes.labels import DRIVABLE, SEMANTIC
from blobex.scenes.scene import LANE_WIDTH, Line

Place = Literal["ahead", "left", "right"]

HORIZON = 0.42  # image heights, where no ego lane can be fitted: the mean of the synthetic scenes
SIGNALS = ("traffic light", "traffic sign")  # categories that do not stand on the road
UNHIDDEN = 0.85  # least share of lane pixels between a row's lane edges; below it an object hides the lane
LINE_RANGE = (4.2, 9.5)  # metres ahead in which a line is examined: more than one period of dashes
NEXT_LANE, NEXT_LANE_FAR = (1.9, 4.5), 8.0  # metres to the side and ahead in which a lane beside the ego lane shows
ONCOMING, ONCOMING_FAR = (4.4, 6.6), 16.0  # the same beyond a parking strip, where road means oncoming lanes
PAINT = 0.3  # metres from a line's middle within which its paint is looked for, at least 1.5 pixels
ASPHALT = (0.6, 1.1)  # metres from a line's middle where there is no paint
DASHED = 0.2  # least share of a dashed line's length without paint
FAINTEST = 15.0  # grey levels by which paint is lighter than the road
FIRST_THING = SEMANTIC.index("person")
ROAD = SEMANTIC.index("road")
DIRECT, ALTERNATIVE = DRIVABLE.index("direct"), DRIVABLE.index("alternative")


@dataclass(frozen=True)
class Ground:
    """Ground plane of one image. Lengths in image heights: x right from the middle column, y down from the top."""

    horizon: float = HORIZON  # y
    vanishing: float = 0.0  # x of the ego lane at the horizon
    skew: float = 0.0  # shift of the lane's middle to the right, per height below the horizon

    def distance(self, y: float | np.ndarray) -> np.ndarray:
        """Return metres ahead of the ground seen at `y`; infinite at the horizon and above."""
        below = np.maximum(np.asarray(y, dtype=np.float64) - self.horizon, 0)
        with np.errstate(divide="ignore"):
            return CAMERA_HEIGHT / below

    def lateral(self, x: float | np.ndarray, y: float | np.ndarray) -> np.ndarray:
        """Return metres to the right of the ego lane's middle, of the ground seen at (`x`, `y`)."""
        below = np.maximum(np.asarray(y, dtype=np.float64) - self.horizon, 1e-6)
        return (x - self.vanishing - self.skew * below) * CAMERA_HEIGHT / below

    def foot(self, box: Box, height: int, width: int) -> float:
        """Return metres to the right of the ego lane's middle, of the middle of a box's lower edge.

        A box that is cut off by one side of the image is taken to be one lane wide from its visible edge.
        """
        left, _, right, bottom = box
        edges = [float(self.lateral((x - width / 2) / height, bottom / height)) for x in (left, right)]
        if (left <= 0) == (right >= width):
            return sum(edges) / 2
        return edges[1] - LANE_WIDTH / 2 if left <= 0 else edges[0] + LANE_WIDTH / 2


def place_of(category: str, box: Box, ground: Ground, height: int, width: int) -> Place:
    """Return where an object is: "ahead", "left" or "right".

    The words mean this wherever they are used: in sentences ("car ahead removed") and in names (`--only "car ahead"`).
    An object is ahead if its foot, the middle of its box's lower edge, is in the ego lane. Traffic lights and signs do
    not stand on the road: they are ahead if they cross the image's middle column; one that is narrower than high counts
    as wide as it is high.

    >>> place_of("car", (50, 30, 70, 50), Ground(), 64, 128), place_of("car", (0, 30, 20, 50), Ground(), 64, 128)
    ('ahead', 'left')
    """
    if category in SIGNALS:
        left, top, right, bottom = box
        offset, reach = (left + right - width) / 2, max(right - left, bottom - top) / 2
    else:
        offset, reach = ground.foot(box, height, width), LANE_WIDTH / 2
    if abs(offset) <= reach:
        return "ahead"
    return "left" if offset < 0 else "right"


def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x (1,W) and y (H,1) of the pixel centres, in the coordinates of `Ground`.

    >>> [axis.ravel().tolist() for axis in pixel_grid(2, 2)]
    [[-0.25, 0.25], [0.25, 0.75]]
    """
    y = (np.arange(height) + 0.5)[:, None] / height
    return (np.arange(width) + 0.5 - width / 2)[None] / height, y


def fit_ground(drivable: np.ndarray) -> Ground:
    """Fit the plane whose ego lane, LANE_WIDTH wide, covers the pixels labelled direct.

    `drivable` (H,W) is a map of labels.DRIVABLE. Rows in which something hides a part of the lane do not count; with
    fewer than three rows the result is `Ground()`.
    """
    height, width = drivable.shape
    rows, middles, widths = [], [], []
    for row in range(height):
        columns = np.flatnonzero(drivable[row] == DIRECT)
        if len(columns) < 4:
            continue
        first, last = columns[0], columns[-1] + 1
        if len(columns) < UNHIDDEN * (last - first) or first == 0 or last == width:
            continue
        rows.append((row + 0.5) / height)
        middles.append(((first + last) / 2 - width / 2) / height)
        widths.append((last - first) / height)
    y, middle, across = np.array(rows), np.array(middles), np.array(widths)
    horizon = float(np.median(y - across * CAMERA_HEIGHT / LANE_WIDTH)) if rows else math.nan
    if len(rows) < 3 or not 0 < horizon < 1:
        return Ground()
    skew, vanishing = theil_sen(y - horizon, middle)  # robust: a car at the lane's edge moves a few rows
    return Ground(horizon, vanishing, skew)


def theil_sen(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of a line through points (n,), by medians (Theil, 1950; Sen, 1968). Two x must differ.

    `scipy.stats.theilslopes` computes the same; scipy.stats is slow to import.

    >>> theil_sen(np.arange(5.0), np.array([1.0, 3.0, 90.0, 7.0, 9.0]))
    (2.0, 3.0)
    """
    run, rise = x[:, None] - x, y[:, None] - y
    right = run > 0
    slope = np.median(rise[right] / run[right])
    return float(slope), float(np.median(y) - slope * np.median(x))


def read_line(
    side: Literal[-1, 1], ground: Ground, image: np.ndarray, semantic: np.ndarray, drivable: np.ndarray
) -> Line:
    """Return the kind of line on the left (side -1) or right (+1) of the ego lane, from an image (H,W,3) uint8.

    A lane beside it is separated by a dashed or a solid line, which gaps in the paint distinguish, and oncoming lanes
    on the left by a double yellow line; otherwise the road ends there. `semantic` and `drivable` are maps (H,W) of
    labels.SEMANTIC and labels.DRIVABLE.
    """
    x, y = pixel_grid(*drivable.shape)
    ahead, across = np.broadcast_to(ground.distance(y), drivable.shape), side * ground.lateral(x, y)

    def share(of: np.ndarray, lateral: tuple[float, float], far: float) -> float:
        inside = (across > lateral[0]) & (across < lateral[1]) & (ahead < far) & (semantic < FIRST_THING)
        return float(of[inside].mean()) if inside.any() else 0.0

    if share(drivable == ALTERNATIVE, NEXT_LANE, NEXT_LANE_FAR) > 0.5:
        return "dashed" if _unpainted(image, ahead, across, semantic == ROAD) > DASHED else "solid"
    if side < 0 and share(semantic == ROAD, ONCOMING, ONCOMING_FAR) > 0.5:
        return "double_yellow"
    return "edge"


def _unpainted(image: np.ndarray, ahead: np.ndarray, across: np.ndarray, road: np.ndarray) -> float:
    """Return the share of a line's length within LINE_RANGE that is not lighter than the road; 1 if nothing shows."""
    brightness = image[..., :2].mean(2)  # red and green: yellow paint is as bright as white there
    offset = np.abs(across - LANE_WIDTH / 2)
    reach = np.maximum(PAINT, 1.5 * ahead / len(image))
    paint, lengths, plain = [], [], []
    for row in np.flatnonzero((ahead[:, 0] > LINE_RANGE[0]) & (ahead[:, 0] < LINE_RANGE[1])):
        line = road[row] & (offset[row] < reach[row])
        if line.any():
            paint.append(brightness[row, line].max())
            lengths.append(ahead[row - 1, 0] - ahead[row, 0])
        plain.append(brightness[row, (offset[row] > ASPHALT[0]) & (offset[row] < ASPHALT[1])])
    if not paint or not any(map(len, plain)):
        return 1.0
    asphalt = np.median(np.concatenate(plain))
    level = asphalt + max((np.quantile(paint, 0.95) - asphalt) / 2, FAINTEST)
    return float(np.average(np.array(paint) < level, weights=lengths))
