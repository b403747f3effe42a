"""Pictures inside a page: as data, as differences, and as maps of blobs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from blobex.explain.blob_changes import BlobChange
from blobex.explain.blob_map import COLOURS, place_numbers
from blobex.report.page_markup import Markup, joined, tag

LOSSLESS = 64 * 256  # pixels up to which a picture is kept exactly
EFFORT, QUALITY = 80, 85  # of the exact ones to be small, and of the others to be like
GREYS, BACKGROUND = ((206, 206, 206), (186, 186, 186)), (226, 226, 226)  # of blobs that stay, and behind all
EDGE = (255, 255, 255)
GAINS = (8, 4, 2, 1)  # of differences; the first that shows most of them whole
WHOLE = 0.995  # share of a picture's changed values that must not be cut off
GREY = 128  # no difference
LETTER, TALL = 9, 17  # size of a number's digit, in points of the map


def data_uri(picture: np.ndarray, exact: bool = True) -> str:
    """A picture, uint8 (H,W,3), as a WebP in a data: address; large ones are never kept exactly."""
    file = io.BytesIO()
    exact = exact and picture.shape[0] * picture.shape[1] <= LOSSLESS
    Image.fromarray(picture).save(file, "WEBP", lossless=exact, quality=EFFORT if exact else QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def image(picture: np.ndarray, alt: str, exact: bool = True) -> Markup:
    """A picture in its own size."""
    height, width = picture.shape[:2]
    source = {"src": data_uri(picture, exact), "alt": alt, "width": width, "height": height, "decoding": "async"}
    return tag("img", source)


def stored(key: str, picture: np.ndarray) -> Markup:
    """A picture that several places show; `shown` shows it."""
    height, width = picture.shape[:2]
    return tag("image", {"id": key, "href": data_uri(picture), "width": width, "height": height})


def shown(key: str, picture: np.ndarray, alt: str) -> Markup:
    """The picture that is stored under a key."""
    return _drawing(picture.shape[0], picture.shape[1], alt, tag("use", {"href": f"#{key}"}))


def difference(query: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, int]:
    """How two pictures, uint8 (H,W,3), differ in each colour, as a picture, and by what it is enlarged.

    Grey is no difference, brighter and darker is what `other` has more and less of. The gain is the largest that leaves
    all but a few of the changed values whole.
    """
    change = other.astype(np.int16) - query.astype(np.int16)
    sizes = np.abs(change[change != 0])
    reach = float(np.quantile(sizes, WHOLE)) if sizes.size else 0.0
    gain = next((gain for gain in GAINS if gain * reach < GREY), GAINS[-1])
    return np.clip(GREY + gain * change, 0, 255).astype(np.uint8), gain


def flat_map(painted: np.ndarray, changes: Sequence[BlobChange], alt: str) -> Markup:
    """Which blob paints each point (H,W), -1 the background, as a map.

    Those that changed are in colours and numbered; the others are grey.
    """
    index = np.where(painted < 0, 0, 1 + painted % len(GREYS)).astype(np.uint8)
    palette = [BACKGROUND, *GREYS, *COLOURS, EDGE]
    for place, change in enumerate(changes):
        own = -1 if change.blob is None else change.blob
        index[painted == own] = 1 + len(GREYS) + place % len(COLOURS)
    for here, beside, mark in (
        (painted[1:], painted[:-1], index[1:]),
        (painted[:, 1:], painted[:, :-1], index[:, 1:]),
    ):
        mark[here != beside] = len(palette) - 1
    flat = Image.fromarray(index)
    flat.putpalette([value for colour in palette for value in colour])
    file = io.BytesIO()
    flat.save(file, "PNG", optimize=True)
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    height, width = painted.shape
    picture = tag("image", {"href": address, "width": width, "height": height})
    return _drawing(height, width, alt, picture, *_numbers(painted, changes))


def _numbers(painted: np.ndarray, changes: Sequence[BlobChange]) -> list[Markup]:
    """The numbers of the blobs that changed and can be seen."""
    seen = [change for change in changes if change.blob is not None and (painted == change.blob).any()]
    if not seen:
        return []
    centres = np.zeros((max(change.blob or 0 for change in seen) + 1, 2))
    for change in seen:
        ys, xs = np.nonzero(painted == change.blob)
        centres[change.blob] = (xs.mean() + 0.5) / painted.shape[1], (ys.mean() + 0.5) / painted.shape[0]
    boxes = {change.blob or 0: (LETTER * len(str(change.blob)) + 6, TALL) for change in seen}
    marks = place_numbers(painted, centres, list(boxes), boxes)
    return [tag("text", {"x": mark.x, "y": mark.y, "class": "mark"}, str(mark.number)) for mark in marks]


def _drawing(height: int, width: int, alt: str, *inside: Markup) -> Markup:
    frame = {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": alt, "width": width, "height": height}
    return tag("svg", frame, joined(*inside))
