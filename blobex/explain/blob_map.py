"""Map of an image's blobs: outlines and numbers on the image, its reconstruction, and the dominant blobs in colour."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blobex.core.errors import BlobexError
from blobex.explain.figures import GAP, INK, LINE, PAPER

WIDTH = 768  # of the large image, in pixels
TEXT, NUMBER, SMALL_NUMBER = 14, 17, 13  # font sizes
# Okabe and Ito (2008), "Color Universal Design": distinct for every kind of colour vision; without black.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
BACKGROUND, FADED = (225, 225, 225), (150, 150, 150)
FADING = 0.6  # share of white in the colour of a blob that is not chosen
COLUMNS, NOTE_LETTERS = 4, 150  # of the legend
TITLES = ("blobs, each where it paints most", "reconstruction", "what each blob paints")
STEP = 3  # pixels between candidate positions of a number

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Mark:
    """Centre of a blob's number, in pixels of its panel."""

    number: int
    x: int
    y: int


def blob_map(
    image: np.ndarray,
    scores: np.ndarray,
    centres: np.ndarray,
    reconstruction: np.ndarray,
    labels: Mapping[int, str] | None = None,
    chosen: Sequence[int] | None = None,
    region: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the map of an image's blobs, uint8 (height,width,3).

    Args:
        image: uint8 (H,W,3).
        scores: Score maps (K+1,H,W), background first; blobs are outlined where they dominate.
        centres: x and y of the blobs (K,2), in [0, 1].
        reconstruction: uint8 (H,W,3).
        labels: Texts of the legend, by blob.
        chosen: Blobs to highlight; None: all.
        region: Mask to outline, bool (H,W).

    Raises:
        BlobexError: The arrays do not fit together.
    """
    _check(image, scores, centres, reconstruction, region)
    height = round(WIDTH * image.shape[0] / image.shape[1])
    painted = dominant(_enlarge(scores, height, WIDTH))
    visible = [int(blob) for blob in np.unique(painted) if blob >= 0]
    highlighted = visible if chosen is None else [blob for blob in visible if blob in chosen]
    colours = assign_colours(painted, visible)
    faded = {blob: colours[blob] if blob in highlighted else _faded(colours[blob]) for blob in visible}
    marks = place_numbers(painted, centres, visible, number_boxes(visible, NUMBER))

    large = Image.fromarray(image).resize((WIDTH, height), Image.Resampling.BICUBIC)
    _outline(large, painted, [blob for blob in visible if blob not in highlighted], dict.fromkeys(visible, FADED), 1)
    _outline(large, painted, highlighted, colours, 3)
    if region is not None:
        inside = _enlarge(region[None].astype(np.float32), height, WIDTH)[0] > 0.5
        _outline(large, np.where(inside, 0, -1), [0], {0: PAPER}, 2)
    _draw_numbers(large, marks, faded, NUMBER)

    half = (WIDTH // 2, height // 2)
    small = Image.fromarray(reconstruction).resize(half, Image.Resampling.BICUBIC)
    flat = _flat(painted, faded).resize(half, Image.Resampling.NEAREST)
    smaller = dominant(_enlarge(scores, half[1], half[0]))
    boxes = number_boxes(visible, SMALL_NUMBER)
    _draw_numbers(flat, place_numbers(smaller, centres, visible, boxes), faded, SMALL_NUMBER)

    legend = [(colours[blob], f"{blob}  {labels[blob]}") for blob in highlighted if blob in labels] if labels else []
    hidden = [blob for blob in range(len(centres)) if blob not in visible]
    note = ", ".join(f"{blob} (chosen)" if blob in (chosen or ()) else str(blob) for blob in hidden)
    return _sheet((large, small, flat), legend, f"not visible: {note}" if note else "")


def dominant(scores: np.ndarray) -> np.ndarray:
    """Return the dominant blob of each pixel, int (H,W), for score maps (K+1,H,W); -1 is the background."""
    return scores.argmax(0) - 1


def place_numbers(
    painted: np.ndarray, centres: np.ndarray, blobs: Sequence[int], boxes: Mapping[int, tuple[int, int]]
) -> list[Mark]:
    """Place each blob's number on a map (H,W) of dominant blobs, small blobs first, without overlaps if there is room.

    A number lies as much as possible on the blob's own pixels, and as near as possible to its centre.

    Args:
        centres: x and y of the blobs (K,2), in [0, 1].
        boxes: Width and height of each number in pixels.
    """
    height, width = painted.shape
    taken = np.zeros((height, width), bool)
    marks = []
    for blob in sorted(blobs, key=lambda blob: ((painted == blob).sum(), blob)):
        across, down = boxes[blob]
        ys, xs = np.arange(0, max(height - down, 1), STEP), np.arange(0, max(width - across, 1), STEP)
        own, others = (_box_sums(mask, ys, xs, across, down) for mask in (painted == blob, taken))
        x, y = xs + across / 2, ys + down / 2  # candidate centres
        away = np.hypot(x[None] - centres[blob, 0] * width, y[:, None] - centres[blob, 1] * height)
        cost = away / np.hypot(width, height) - 2 * own / (across * down) + 4 * (others > 0)
        row, column = np.unravel_index(cost.argmin(), cost.shape)
        top, left = ys[row], xs[column]
        taken[top : top + down, left : left + across] = True
        marks.append(Mark(blob, round(float(x[column])), round(float(y[row]))))
    return sorted(marks, key=lambda mark: mark.number)


def _box_sums(mask: np.ndarray, ys: np.ndarray, xs: np.ndarray, across: int, down: int) -> np.ndarray:
    """Count the mask's pixels in the boxes with upper left corners at `ys` x `xs`."""
    height, width = mask.shape
    sums = np.zeros((height + 1, width + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    bottoms, rights = np.minimum(ys + down, height), np.minimum(xs + across, width)
    return sums[np.ix_(bottoms, rights)] - sums[np.ix_(ys, rights)] - sums[np.ix_(bottoms, xs)] + sums[np.ix_(ys, xs)]


def _enlarge(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize maps (C,H,W) bilinearly."""
    size, linear = (width, height), Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(one.astype(np.float32)).resize(size, linear)) for one in maps])


def assign_colours(painted: np.ndarray, blobs: Sequence[int]) -> dict[int, Colour]:
    """Assign a colour to each blob that differs from its neighbours' colours, as far as there are enough."""
    neighbours: dict[int, set[int]] = {blob: set() for blob in blobs}
    for first, second in ((painted[1:], painted[:-1]), (painted[:, 1:], painted[:, :-1])):
        for one, other in np.unique(np.stack([first, second], -1)[first != second], axis=0).tolist():
            if one >= 0 and other >= 0:
                neighbours[one].add(other)
                neighbours[other].add(one)
    colours: dict[int, Colour] = {}
    for blob in sorted(blobs, key=lambda blob: -len(neighbours[blob])):
        near = [colours.get(other) for other in neighbours[blob]]
        used = list(colours.values())
        colours[blob] = min(COLOURS, key=lambda colour: (near.count(colour), used.count(colour)))
    return colours


def _faded(colour: Colour) -> Colour:
    red, green, blue = (round(a + (b - a) * FADING) for a, b in zip(colour, PAPER, strict=True))
    return red, green, blue


def _outline(
    image: Image.Image, painted: np.ndarray, blobs: Sequence[int], colours: Mapping[int, Colour], thickness: int
) -> None:
    """Draw the inner edge of each blob's pixels, `thickness` pixels wide, with a dark line inside."""
    pixels = np.array(image)
    for blob in blobs:
        own = painted == blob
        inner = _eroded(own, thickness)
        pixels[own & ~inner] = colours[blob]
        pixels[inner & ~_eroded(inner, 1)] = INK
    image.paste(Image.fromarray(pixels))


def _eroded(mask: np.ndarray, by: int) -> np.ndarray:
    """Erode a mask by `by` pixels along both axes; outside the image counts as inside."""
    padded = np.pad(mask, by, mode="edge")
    height, width = mask.shape
    rows = np.logical_and.reduce([padded[i : i + height] for i in range(2 * by + 1)])
    return np.logical_and.reduce([rows[:, i : i + width] for i in range(2 * by + 1)])


def _flat(painted: np.ndarray, colours: Mapping[int, Colour]) -> Image.Image:
    """Draw the dominant blobs in their colours."""
    table = np.array([BACKGROUND, *(colours.get(blob, BACKGROUND) for blob in range(painted.max() + 1))], np.uint8)
    pixels = table[painted + 1]
    pixels[1:][painted[1:] != painted[:-1]] = PAPER
    pixels[:, 1:][painted[:, 1:] != painted[:, :-1]] = PAPER
    return Image.fromarray(pixels)


def number_boxes(blobs: Sequence[int], size: int) -> dict[int, tuple[int, int]]:
    """Return width and height of each blob's number with its plate."""
    font = ImageFont.load_default(size)
    return {blob: (round(font.getlength(str(blob))) + 8, size + 6) for blob in blobs}


def _draw_numbers(image: Image.Image, marks: Sequence[Mark], colours: Mapping[int, Colour], size: int) -> None:
    """Draw numbers on plates in the blobs' colours."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    boxes = number_boxes([mark.number for mark in marks], size)
    for mark in marks:
        colour, (across, down) = colours[mark.number], boxes[mark.number]
        left, top = mark.x - across // 2, mark.y - down // 2
        draw.rounded_rectangle((left, top, left + across - 1, top + down - 1), 4, fill=colour, outline=INK)
        ink = INK if sum(colour) > 330 else PAPER
        draw.text((mark.x, mark.y), str(mark.number), fill=ink, font=font, anchor="mm", stroke_width=0.3)


def _sheet(panels: Sequence[Image.Image], legend: Sequence[tuple[Colour, str]], note: str) -> np.ndarray:
    """Arrange the large panel on the left, the small ones on the right, and legend and note below."""
    large, *small = panels
    font = ImageFont.load_default(TEXT)
    notes = textwrap.wrap(note, NOTE_LETTERS)
    rows = -(-len(legend) // COLUMNS)
    width = large.width + small[0].width + 3 * GAP
    below = LINE + GAP + max(large.height, sum(panel.height + GAP + LINE for panel in small) - GAP - LINE)
    sheet = Image.new("RGB", (width, below + (rows + len(notes)) * LINE + GAP * bool(legend or notes)), PAPER)
    draw = ImageDraw.Draw(sheet)
    left, top = GAP, LINE
    for panel, title in zip(panels, TITLES, strict=True):
        draw.text((left, top - LINE), title, fill=INK, font=font, stroke_width=0.4)
        sheet.paste(panel, (left, top))
        left, top = large.width + 2 * GAP, top if panel is large else top + panel.height + GAP + LINE
    step = (width - GAP) // COLUMNS
    for index, (colour, text) in enumerate(legend):
        x, y = GAP + index // rows * step, below + index % rows * LINE
        draw.rectangle((x, y + 3, x + 11, y + 14), fill=colour, outline=INK)
        draw.text((x + 18, y), text, fill=INK, font=font)
    for index, line in enumerate(notes):
        draw.text((GAP, below + (rows + index) * LINE), line, fill=INK, font=font)
    return np.asarray(sheet)


def _check(
    image: np.ndarray, scores: np.ndarray, centres: np.ndarray, reconstruction: np.ndarray, region: np.ndarray | None
) -> None:
    size = image.shape[:2]
    same = scores.ndim == 3 and scores.shape[1:] == size and reconstruction.shape == image.shape
    if not same or image.shape[2:] != (3,) or {image.dtype, reconstruction.dtype} != {np.dtype(np.uint8)}:
        raise BlobexError("a blob map needs two images, uint8 (H,W,3), and scores (K+1,H,W) of one size")
    if centres.shape != (len(scores) - 1, 2):
        raise BlobexError(f"{len(scores) - 1} blobs need as many centres (K,2), not {centres.shape}")
    if region is not None and (region.shape != size or region.dtype != bool):
        raise BlobexError(f"the region of a blob map must be bool {size}, not {region.dtype} {region.shape}")
