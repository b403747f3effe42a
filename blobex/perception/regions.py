"""Which part of a picture is meant, and which blobs paint it.

A region is told by coordinates, by a mask picture or, with a parser's help, by the name of an object:
`[nearest|all] CATEGORY [ahead|left|right]`. Regions are bool (H,W) on the CPU, on the picture as it is explained: what
the crop cut off is outside.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from blobex.config.messages import abbreviated
from blobex.core.errors import BlobexError
from blobex.datasets.images import ENDINGS, fit, load_image
from blobex.networks.parser import ParserOutput, detections, panoptic
from blobex.scenes.labels import DETECTION, SEMANTIC

BOX = "left,top,right,bottom"
FORMS = f"{BOX} or x,y x,y x,y ... as shares of the picture from 0 to 1, or a mask picture"
WHITE = 128  # pixels of a mask at least as bright are the region

HOW_MANY, WHERE = ("nearest", "all"), ("ahead", "left", "right")
VEHICLES = ("car", "truck", "bus", "train", "motorcycle", "bicycle")  # the vehicles of Cityscapes
# What is counted one by one, and the detection categories that it stands for.
THINGS = {name: (name,) for name in DETECTION} | {"person": ("pedestrian",), "vehicle": VEHICLES}
STUFF = tuple(name for name in SEMANTIC if name not in THINGS)
HANGING = ("traffic light", "traffic sign")  # their foot says nothing of their distance
SAME_THING = 0.5  # overlap (intersection over union) of a detected box and the box around a thing's pixels
FILLED = 0.25  # share of a box that pixels of its category must cover to stand for it

SHARE = 0.1  # of the region that a blob must paint to be chosen
INSIDE, LEAST_INSIDE = 0.5, 0.02  # or it paints this share of itself there, and of the region that share
LAST_RESORT = 0.05  # of the region that the strongest blob must paint where no other is chosen
BACKGROUND = 0.5  # of the region that the background must paint to count


def region_mask(text: str, height: int, width: int, output: ParserOutput | None = None, index: int = 0) -> Tensor:
    """The region that a text means: an object of `output` where it is words alone, else as `parse_region`.

    BlobexError: as of `object_mask` and `parse_region`, or an object without a parser's output.

    >>> region_mask("0,0,0.5,1", height=2, width=4).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    if not re.fullmatch(r"[A-Za-z ]*[A-Za-z][A-Za-z ]*", text):
        return parse_region(text, height, width)
    if output is None:
        raise BlobexError(f"region {abbreviated(text)} is a name, which takes a trained parser: give {FORMS}")
    return object_mask(text, output, index)


def parse_region(text: str, height: int, width: int) -> Tensor:
    """The region of a box, a polygon, or a mask picture (white is the region), bool (height,width).

    A pixel belongs to it if its centre does. A polygon that crosses itself is filled by the even-odd rule. A mask is
    of the uncropped photo, and is cropped and resized as photos are. BlobexError: not of these forms, shares below 0
    or above 1, fewer than three corners, no pixel inside.

    >>> parse_region("0,0 1,0 0,1", height=4, width=4).int().tolist()  # a triangle
    [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """
    try:
        points = [tuple(float(number) for number in point.split(",")) for point in text.split()]
    except ValueError as error:
        if Path(text).suffix.lower() in ENDINGS or _is_file(text):
            return _white(text, height, width)
        raise BlobexError(f"region {abbreviated(text)}: give {FORMS}") from error
    if not points or {len(point) for point in points} not in ({4}, {2}) or (len(points[0]) == 4 and len(points) > 1):
        raise BlobexError(f"region {abbreviated(text)}: give {FORMS}")
    if not all(0 <= number <= 1 for point in points for number in point):  # also if one is not a number
        raise BlobexError(f"region {abbreviated(text)} reaches out of the picture: give shares from 0 to 1")
    if len(points[0]) == 2 and len(points) < 3:
        raise BlobexError(f"region {abbreviated(text)} has fewer than three corners: give more, or {BOX}")
    inside = box_mask(points[0], height, width) if len(points[0]) == 4 else _polygon_mask(points, height, width)
    if not inside.any():
        raise BlobexError(f"region {abbreviated(text)} holds no pixel of {height}x{width}: make it larger")
    return inside


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # too long to be a name
        return False


def _white(path: str, height: int, width: int) -> Tensor:
    """Where a mask picture is white."""
    inside = torch.from_numpy(fit(load_image(path), height, width).mean(2) >= WHITE)
    if not inside.any():
        raise BlobexError(f"the mask {path} has no white in the part that is explained: paint the region white")
    return inside


def box_mask(box: Sequence[float], height: int, width: int) -> Tensor:
    """Bool (height,width): the pixels whose centre is in the box (left, top, right, bottom), shares of the picture.

    >>> box_mask((0.5, 0, 1, 1), height=1, width=4).tolist()
    [[False, False, True, True]]
    """
    left, top, right, bottom = box
    x, y = _pixel_centres(height, width)
    return ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))


def _polygon_mask(corners: Sequence[Sequence[float]], height: int, width: int) -> Tensor:
    """The pixels from whose centre a ray to the right crosses an odd number of edges."""
    x, y = _pixel_centres(height, width)
    inside = torch.zeros(height, width, dtype=torch.bool)
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        crossed = (y >= y1) != (y >= y2)
        meeting = x1 + (y - y1) * (x2 - x1) / (y2 - y1 or 1.0)
        inside ^= crossed[:, None] & (x < meeting[:, None])
    return inside


def _pixel_centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    """x (width) and y (height) as shares of the picture."""
    x, y = ((torch.arange(size, dtype=torch.float64) + 0.5) / size for size in (width, height))
    return x, y


@dataclass(frozen=True)
class Thing:
    """A detected object; lengths in pixels."""

    category: str  # one of DETECTION
    box: tuple[float, float, float, float]  # left, top, right, bottom
    mask: Tensor  # bool (H,W)

    @property
    def nearness(self) -> float:
        """Greater is nearer, among things of one kind: how low the foot is; of what hangs, the larger area."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top) if self.category in HANGING else bottom

    def stands(self, where: str | None) -> bool:
        """Whether it is at a place. Ahead: it reaches over the picture's middle column, where the camera drives.

        A thing that is narrow for its height counts as wide as it is high, which is half a lane for a pedestrian.
        """
        left, top, right, bottom = self.box
        aside = (left + right - self.mask.shape[1]) / 2
        if where == "ahead":
            return abs(aside) <= max(right - left, bottom - top) / 2
        return where is None or (aside < 0) == (where == "left")


def things(output: ParserOutput, index: int) -> list[Thing]:
    """The objects that a parser detects in one picture, each with its pixels where it can tell them, else its box."""
    one = output[slice(index, index + 1)].to("cpu")
    (found,), (category, numbers) = detections(one), (each[0] for each in panoptic(one))
    names = [DETECTION[number] for number in found.categories.tolist()]
    return [
        Thing(name, box, _shape(name, box, category, numbers))
        for name, box in zip(names, map(tuple, found.boxes.tolist()), strict=True)
    ]


def _shape(name: str, box: tuple[float, ...], category: Tensor, numbers: Tensor) -> Tensor:
    """The pixels of the object in a box: those of the thing there, those of its category, or the box."""
    height, width = category.shape
    left, top, right, bottom = box
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside = ((y - (top + bottom) / 2).abs() <= max(bottom - top, 1) / 2)[:, None]
    inside = inside & ((x - (left + right) / 2).abs() <= max(right - left, 1) / 2)
    for number in numbers[inside].unique().tolist():
        if number and _overlap(box, numbers == number) >= SAME_THING:
            return numbers == number
    own = inside & (category == SEMANTIC.index("person" if name == "pedestrian" else name))
    return own if own.sum() >= FILLED * inside.sum() else inside


def _overlap(box: tuple[float, ...], mask: Tensor) -> float:
    """Intersection over union of a box and the box around the pixels of a mask, which has some."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    other = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    across, down = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    shared = max(across, 0.0) * max(down, 0.0)
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (box, other)]
    return shared / (sum(areas) - shared)


def object_mask(name: str, output: ParserOutput, index: int) -> Tensor:
    """The pixels, bool (H,W), of an object that a parser finds in picture `index` of its output.

    `name` is `[nearest|all] CATEGORY [ahead|left|right]`. A category is any of scenes.labels.DETECTION or SEMANTIC, or
    vehicle; a plural s is allowed. Of things that are counted (a car, a traffic light) it is the nearest, unless all
    are wanted: the one whose foot is lowest in the picture, or of lights and signs the largest. Things stand left or
    right of the picture's middle column, or ahead, across it. Stuff (road, sky) is all of it, or what lies in the left
    or the right half of the picture or, ahead, in its middle third. BlobexError: an unknown category, or nothing of
    that kind at that place; the message then says what there is.
    """
    all_, category, where = _parse_name(name)
    found = things(output, index)
    named = output.semantic[index].argmax(0).cpu()
    if category in THINGS:
        candidates = [each for each in found if each.category in THINGS[category] and each.stands(where)]
        candidates.sort(key=lambda each: -each.nearness)  # of equals, the surest stays first
        chosen = candidates if all_ else candidates[:1]
        mask = torch.stack([each.mask for each in chosen]).any(0) if chosen else torch.zeros_like(named).bool()
    else:
        mask = (named == SEMANTIC.index(category)) & _part(named, where)
    if not mask.any():
        counts = Counter(each.category for each in found)
        seen = [f"{count} {kind}" for kind, count in counts.items()]
        seen += [kind for kind in STUFF if (named == SEMANTIC.index(kind)).any()]
        place = f" {where}" if where else ""
        raise BlobexError(f"there is no {category}{place} in the picture, but {', '.join(seen)}: name one of these")
    return mask


def _parse_name(name: str) -> tuple[bool, str, str | None]:
    """Whether all are wanted, which category, and where."""
    words = name.lower().split()
    first = words.pop(0) if words and words[0] in HOW_MANY else None
    where = words.pop() if words and words[-1] in WHERE else None
    known = {f"{each}{ending}": each for each in (*THINGS, *STUFF) for ending in ("", "s", "es")}
    category = known.get(" ".join(words))
    if category is None:
        raise BlobexError(
            f"no object is called {abbreviated(name)}: say [nearest|all] CATEGORY [ahead|left|right], where CATEGORY "
            f"is one of {', '.join((*THINGS, *STUFF))}"
        )
    return first == "all", category, where


def _part(named: Tensor, where: str | None) -> Tensor:
    """The columns of a picture that a place word means for stuff, bool (1,W)."""
    parts = {None: (0.0, 1.0), "left": (0.0, 0.5), "right": (0.5, 1.0), "ahead": (1 / 3, 2 / 3)}
    left, right = parts[where]
    return box_mask((left, 0, right, 1), *named.shape)[:1]


def painting_blobs(
    scores: Tensor, region: Tensor, share: float = SHARE, background: bool = False
) -> tuple[list[list[int]], list[bool]]:
    """The blobs that paint a region of each of N pictures, numbered from 0, and whether the background does.

    `scores` (N,K+1,H,W) are the layout's score maps, background first, and `region` is bool (N or 1,H,W). A blob is
    chosen if it paints at least the share `share` of the region, or at least 2% of it and nowhere more than there; if
    none is, the strongest, so that it paints more than 5%. The background counts where it paints more than half, and
    never unless `background` allows it. BlobexError: a region without pixels or of another size, and one that nothing
    allowed paints.

    >>> scores = torch.tensor([0.19, 0.8, 0.01])[None, :, None, None].expand(1, 3, 2, 2)  # background and two blobs
    >>> painting_blobs(scores, torch.ones(1, 2, 2, dtype=torch.bool))
    ([[0]], [False])
    """
    count, (height, width) = len(scores), scores.shape[2:]
    if region.dtype != torch.bool or region.shape not in ((1, height, width), (count, height, width)):
        raise BlobexError(
            f"a region of {count} pictures is bool ({count} or 1,{height},{width}), not {tuple(region.shape)}"
        )
    if not region.flatten(1).any(1).all():
        raise BlobexError("a region has no pixel: make it larger")
    region = region.expand(count, -1, -1).to(scores.device)
    within = torch.einsum("nkhw,nhw->nk", scores.double(), region.double())
    of_region = within / region.sum((1, 2))[:, None]  # N,K+1: the share of the region that each paints
    of_itself = within / scores.double().sum((2, 3)).clamp(min=torch.finfo(torch.double).tiny)
    chosen = (of_region >= share) | ((of_itself >= INSIDE) & (of_region >= LEAST_INSIDE))
    strongest = of_region[:, 1:].argmax(1)
    rows, painted = [], (of_region[:, 0] > BACKGROUND).tolist()
    for picture in range(count):
        numbers = chosen[picture, 1:].nonzero()[:, 0].tolist()
        if not numbers and of_region[picture, 1 + strongest[picture]] > LAST_RESORT:
            numbers = [int(strongest[picture])]
        if not numbers and not (painted[picture] and background):
            which = f" of picture {picture}" if count > 1 else ""
            how = "the background: allow it" if painted[picture] else "many blobs, each a little: name some"
            raise BlobexError(f"the region{which} is painted by {how} or choose another region")
        rows.append(numbers)
    return rows, [each and background for each in painted]
