"""Waterfall of a counterfactual in steps, for notebooks: the score after each change is undone."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from blobex.core.errors import BlobexError
from blobex.explain.explanation import Explanation
from blobex.explain.figures import FRAMES, GAP, INK, LINE, PAPER
from blobex.explain.step import needed

NAMES, BARS = 150, 240  # pixels: widths of the names' and the bars' columns


def waterfall(record: Explanation) -> np.ndarray:
    """Draw the steps of an explanation, uint8 (H,W,3): a bar from the score before each to that after.

    Bars of changes that the decision needs are red. Raises BlobexError for an explanation without steps, such as one
    of a single change.
    """
    if not record.steps:
        raise BlobexError("this explanation has no steps: they belong to flips by several blobs")
    scores = [record.score_after, *(step.score for step in record.steps)]
    bottom, top = min(0.0, *scores), max(1.0, *scores)
    necessary, font = needed(record.steps), ImageFont.load_default(LINE - 4)
    size = NAMES + BARS + 5 * LINE + 2 * GAP, LINE * (len(record.steps) + 1) + 2 * GAP
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), f"{record.attribute} {record.score_after:.2f}; undone one by one:", fill=INK, font=font)
    for number, (before, step) in enumerate(zip(scores, record.steps, strict=False), 1):
        y, name = GAP + number * LINE, "background" if step.blob is None else f"blob {step.blob}"
        left, right = (
            round(NAMES + BARS * (score - bottom) / (top - bottom)) for score in sorted((before, step.score))
        )
        tone = FRAMES["bad" if step.blob in necessary else "plain"]
        draw.text((GAP, y), f"without {name}", fill=INK, font=font)
        draw.rectangle((left, y + 3, max(right, left + 1), y + LINE - 4), fill=tone)
        draw.text((NAMES + BARS + GAP, y), f"{step.score:.2f}", fill=INK, font=font)
    return np.asarray(sheet)
