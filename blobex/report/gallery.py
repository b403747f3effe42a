"""Gallery of the report page: one card per explanation with its images, and the filters and sorting of cards."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from blobex.explain.blob_map import COLOURS, Mark, place_numbers
from blobex.explain.feedback import ANSWERS, image_digest
from blobex.report.results import GalleryItem, Record, Report, Results, object_changes

MAX_SCORES = 8  # outputs whose scores are shown: the question's and the largest
SORTS = {"order": "as explained", "distance": "nearest to the query", "score": "score changed most"}
LOSSLESS_PIXELS = 64 * 256  # largest image that is stored losslessly
LOSSLESS_EFFORT, LOSSY_QUALITY = 80, 85
GREYS, BACKGROUND, EDGE = ((206, 206, 206), (186, 186, 186)), (226, 226, 226), (255, 255, 255)  # of blob maps
GAINS = (8, 4, 2, 1)  # of differences
UNCLIPPED = 0.995  # share of the changed values that the gain leaves unclipped
GREY = 128  # no difference
DIGIT_WIDTH, DIGIT_HEIGHT, PADDING = 9, 17, 6  # of a blob's number, in points of the map


@dataclass(frozen=True)
class Score:
    """The model's score of one output before and after the change."""

    output: str
    asked: bool  # the question is about this output
    before: float
    after: float


@dataclass(frozen=True)
class StepBar:
    """A bar of the waterfall: the score after one more change is undone."""

    name: str
    score: float
    low: float  # ends of the bar, in shares of its full width: the scores before and after
    high: float
    needed: bool  # the decision wanted is lost now, or was before


@dataclass(frozen=True)
class Card:
    """One explanation as the page shows it."""

    order: int
    record: Record
    name: str  # of the image's file
    variant: str
    several: bool  # questions of this variant have more than one counterfactual
    families: Sequence[str]  # of the changed objects
    distance: float | None  # to the query; None if the search failed
    score_change: float | None  # negative, so that the largest change is sorted first
    query: str  # key of a shared image
    reconstruction: str
    counterfactual: PageImage
    difference: PageImage
    white: int  # grey levels of change that the difference shows as white
    maps: Sequence[PageImage]  # before, after
    changed_blobs: str
    scores: Sequence[Score]
    steps: Sequence[StepBar]  # from the counterfactual back to the query; empty: the record has none
    digest: str  # of the counterfactual, by which answers name it
    decided: bool | None  # what the model decides about it; None if the search failed


@dataclass(frozen=True)
class Gallery:
    """All cards, the images that several of them share, and the choices of each filter."""

    cards: Sequence[Card]
    images: Mapping[str, PageImage]
    filters: Mapping[str, Sequence[str]]
    answers: Sequence[str] = ANSWERS  # that a person may give about a card


def gallery(report: Report) -> Gallery:
    """Build the gallery of all results."""
    cards, images = list[Card](), dict[str, PageImage]()
    for place, results in enumerate(report.results):
        keys: dict[str, str] = {}
        for item in results.gallery:
            image = str(item.record["image"])
            if image not in keys:
                keys[image] = f"image-{place}-{len(keys)}"
                images[f"{keys[image]}-query"] = page_image(item.query)
                images[f"{keys[image]}-reconstruction"] = page_image(item.reconstruction)
            cards.append(_card(len(cards), item, results, keys[image]))
    records = [card.record for card in cards]
    filters = {name: [getattr(results, name) for results in report.results] for name in ("setup", "variant")}
    filters |= {name: [record[name] for record in records] for name in ("attribute", "verdict")}
    filters["changed"] = sorted({family for card in cards for family in card.families})
    return Gallery(cards, images, {name: list(dict.fromkeys(values)) for name, values in filters.items() if values})


def _card(order: int, item: GalleryItem, results: Results, key: str) -> Card:
    record = item.record
    before, after = record["score_before"], record["score_after"]
    amplified, gain = difference(item.query, item.counterfactual)
    changed = [change["blob"] for change in record["blobs"]]
    return Card(
        order=order,
        record=record,
        name=Path(record["image"]).name,
        variant=results.variant,
        several=any(other["number"] for other in results.records),
        families=sorted({change.family for change in object_changes(record)}),
        distance=record["perceptual"] if math.isfinite(record["perceptual"]) else None,
        score_change=-abs(after - before) if math.isfinite(after) else None,
        query=f"{key}-query",
        reconstruction=f"{key}-reconstruction",
        counterfactual=page_image(item.counterfactual),
        difference=page_image(amplified, lossless=False),
        white=GREY // gain,
        maps=[blob_map(blobs, changed) for blobs in (item.blobs_before, item.blobs_after)],
        changed_blobs=", ".join("background" if blob is None else str(blob) for blob in changed) or "none",
        scores=_scores(record, results.outputs),
        steps=step_bars(record),
        digest=image_digest(item.counterfactual),
        decided=after > 0.5 if math.isfinite(after) else None,
    )


def step_bars(record: Record) -> list[StepBar]:
    """Return the waterfall of a record's steps, scaled to the largest and smallest score among them."""
    steps = record.get("steps", ())
    scores = [record["score_after"], *(step["score"] for step in steps)]
    bottom, top = min(0.0, *scores), max(1.0, *scores)
    kept, bars = True, []
    for before, step in zip(scores, steps, strict=False):
        kept = kept and step["flipped"]
        ends = sorted((score - bottom) / (top - bottom) for score in (before, step["score"]))
        name = "background" if step["blob"] is None else f"blob {step['blob']}"
        bars.append(StepBar(name, step["score"], ends[0], ends[1], not kept))
    return bars


def _scores(record: Record, outputs: Sequence[str]) -> list[Score]:
    before, after, asked = record["scores_before"], record["scores_after"], record["column"]
    names = outputs if len(outputs) == len(before) else [str(output) for output in range(len(before))]
    order = sorted(range(len(before)), key=lambda output: (output != asked, -max(before[output], after[output])))
    largest = sorted(order[:MAX_SCORES])
    return [Score(names[output], output == asked, before[output], after[output]) for output in largest]


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
