"""Images of the report page: data URIs, amplified differences and maps of blobs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from blobex.explain.blob_map import COLOURS, Mark, place_numbers

LOSSLESS_PIXELS = 64 * 256  # largest image that is stored losslessly
LOSSLESS_EFFORT, LOSSY_QUALITY = 80, 85
GREYS, BACKGROUND, EDGE = ((206, 206, 206), (186, 186, 186)), (226, 226, 226), (255, 255, 255)  # of blob maps
GAINS = (8, 4, 2, 1)  # of differences
UNCLIPPED = 0.995  # share of the changed values that the gain leaves unclipped
GREY = 128  # no difference
DIGIT_WIDTH, DIGIT_HEIGHT, PADDING = 9, 17, 6  # of a blob's number, in points of the map


@dataclass(frozen=True)
class PageImage:
    """An image as the page holds it."""

    uri: str  # data:
    width: int
    height: int
    marks: Sequence[Mark] = ()  # numbers of blobs, drawn on top


def page_image(image: np.ndarray, lossless: bool = True) -> PageImage:
    """Encode an image, uint8 (H,W,3), as WebP; large ones are always lossy."""
    height, width = image.shape[:2]
    lossless = lossless and height * width <= LOSSLESS_PIXELS
    quality = LOSSLESS_EFFORT if lossless else LOSSY_QUALITY
    return PageImage(_uri(Image.fromarray(image), "WEBP", lossless=lossless, quality=quality), width, height)


def difference(query: np.ndarray, counterfactual: np.ndarray) -> tuple[np.ndarray, int]:
    """Amplify the difference of two images, uint8 (H,W,3), around grey; return it and the gain.

    Brighter than grey is more in the counterfactual. The gain is the largest that clips few of the changed values.
    """
    change = counterfactual.astype(np.int16) - query.astype(np.int16)
    sizes = np.abs(change[change != 0])
    largest = float(np.quantile(sizes, UNCLIPPED)) if sizes.size else 0.0
    gain = next((gain for gain in GAINS if gain * largest < GREY), GAINS[-1])
    return np.clip(GREY + gain * change, 0, 255).astype(np.uint8), gain


def blob_map(blobs: np.ndarray, changed: Sequence[int | None]) -> PageImage:
    """Draw the map of the dominant blobs (H,W): changed ones (None: the background) in colours with their numbers.

    All other blobs are grey.
    """
    index = np.where(blobs < 0, 0, 1 + blobs % len(GREYS)).astype(np.uint8)
    palette = [BACKGROUND, *GREYS, *COLOURS, EDGE]
    for order, blob in enumerate(changed):
        index[blobs == (-1 if blob is None else blob)] = 1 + len(GREYS) + order % len(COLOURS)
    index[1:][blobs[1:] != blobs[:-1]] = len(palette) - 1
    index[:, 1:][blobs[:, 1:] != blobs[:, :-1]] = len(palette) - 1
    image = Image.fromarray(index)
    image.putpalette([value for colour in palette for value in colour])
    height, width = blobs.shape
    return PageImage(_uri(image, "PNG", optimize=True), width, height, _numbers(blobs, changed))


def _numbers(blobs: np.ndarray, changed: Sequence[int | None]) -> Sequence[Mark]:
    """Place the numbers of the changed blobs that are visible."""
    visible = [blob for blob in changed if blob is not None and (blobs == blob).any()]
    if not visible:
        return []
    centres = np.zeros((max(visible) + 1, 2))
    for blob in visible:
        ys, xs = np.nonzero(blobs == blob)
        centres[blob] = (xs.mean() + 0.5) / blobs.shape[1], (ys.mean() + 0.5) / blobs.shape[0]
    boxes = {blob: (DIGIT_WIDTH * len(str(blob)) + PADDING, DIGIT_HEIGHT) for blob in visible}
    return place_numbers(blobs, centres, list(boxes), boxes)


def _uri(image: Image.Image, kind: str, **options: bool | int) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
