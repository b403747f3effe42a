"""Grids of captioned images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blobex.core.errors import BlobexError

Tone = Literal["plain", "good", "bad"]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
FRAMES = {"plain": (190, 190, 190), "good": (20, 130, 60), "bad": (190, 60, 40)}
FRAME, GAP, LINE, FONT_SIZE = 3, 12, 18, 14  # pixels
PAPER, INK = (255, 255, 255), (20, 20, 20)


@dataclass(frozen=True)
class Cell:
    """An image, uint8 (H,W,3), with a caption below it and a frame coloured by its tone."""

    image: np.ndarray
    caption: str
    tone: Tone = "plain"


def grid(titles: Sequence[str], rows: Sequence[Sequence[Cell]], cell_width: int = 256) -> np.ndarray:
    """Draw rows of cells with images of one size below column titles, uint8 (H,W,3).

    Images narrower than `cell_width` pixels are enlarged by the smallest sufficient integer; captions are wrapped.

    Raises:
        BlobexError: There are no rows, a row has another length, or the images differ in size.
    """
    _check(titles, rows)
    height, width = rows[0][0].image.shape[:2]
    scale = -(-cell_width // width)
    font = ImageFont.load_default(FONT_SIZE)
    captions = [[wrap(cell.caption, width * scale, font) for cell in row] for row in rows]
    heights = [height * scale + 2 * FRAME + LINE * max(map(len, row)) + GAP for row in captions]
    step = width * scale + 2 * FRAME + GAP
    sheet = Image.new("RGB", (step * len(titles) + GAP, sum(heights) + LINE + 2 * GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    lefts = [GAP + column * step for column in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left, GAP // 2), title, fill=INK, font=font, stroke_width=0.4)
    tops = itertools.accumulate([GAP + LINE, *heights])
    for top, row, lines in zip(tops, rows, captions, strict=False):
        for left, cell, text in zip(lefts, row, lines, strict=True):
            _draw_cell(sheet, (left, top), cell, scale, text, font)
    return np.asarray(sheet)


def _draw_cell(
    sheet: Image.Image, corner: tuple[int, int], cell: Cell, scale: int, lines: list[str], font: Font
) -> None:
    left, top = corner
    image = Image.fromarray(cell.image)
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(sheet)
    right, bottom = left + image.width + 2 * FRAME - 1, top + image.height + 2 * FRAME - 1
    draw.rectangle((left, top, right, bottom), fill=FRAMES[cell.tone])
    sheet.paste(image, (left + FRAME, top + FRAME))
    for number, line in enumerate(lines):
        draw.text((left + FRAME, bottom + 2 + number * LINE), line, fill=INK, font=font)


def wrap(caption: str, width: int, font: Font) -> list[str]:
    """Split a caption into lines of at most `width` pixels: at spaces, and with an ellipsis in too long words."""
    lines = list[str]()
    for paragraph in caption.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = _shorten(longer, width, font)
        lines.append(line)
    return lines


def _shorten(word: str, width: int, font: Font) -> str:
    half, short = len(word) // 2, word
    while font.getlength(short) > width and half > 1:
        half -= 1
        short = f"{word[:half]}...{word[-half:]}"
    return short


def _check(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    if not rows or not titles:
        raise BlobexError("a grid needs at least one row and one column: give it images")
    if {len(row) for row in rows} != {len(titles)}:
        raise BlobexError(f"a grid with {len(titles)} column titles needs as many images in every row")
    shapes = {cell.image.shape for row in rows for cell in row}
    kinds = {cell.image.dtype for row in rows for cell in row}
    if len(shapes) > 1 or kinds != {np.dtype(np.uint8)} or not all(len(s) == 3 and s[2] == 3 for s in shapes):
        raise BlobexError(f"the images of a grid must all be uint8 (H,W,3) of one size, not {sorted(shapes)}")
