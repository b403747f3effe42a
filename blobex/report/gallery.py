"""Gallery of the report page: one card per explanation, and the values by which cards are filtered and sorted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blobex.report.images import GREY, PageImage, blob_map, difference, page_image
from blobex.report.results import GalleryItem, Record, Report, Results, object_changes

MAX_SCORES = 8  # outputs whose scores are shown: the question's and the largest
SORTS = {"order": "as explained", "distance": "nearest to the query", "score": "score changed most"}


@dataclass(frozen=True)
class Score:
    """The model's score of one output before and after the change."""

    output: str
    asked: bool  # the question is about this output
    before: float
    after: float


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


@dataclass(frozen=True)
class Gallery:
    """All cards, the images that several of them share, and the choices of each filter."""

    cards: Sequence[Card]
    images: Mapping[str, PageImage]
    filters: Mapping[str, Sequence[str]]


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
    filters = {
        "setup": list(dict.fromkeys(results.setup for results in report.results)),
        "variant": list(dict.fromkeys(results.variant for results in report.results)),
        "attribute": list(dict.fromkeys(record["attribute"] for record in records)),
        "verdict": list(dict.fromkeys(record["verdict"] for record in records)),
        "changed": sorted({family for card in cards for family in card.families}),
    }
    return Gallery(cards, images, {name: choices for name, choices in filters.items() if choices})


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
        scores=list(_scores(record, results.outputs)),
    )


def _scores(record: Record, outputs: Sequence[str]) -> Iterator[Score]:
    before, after, asked = record["scores_before"], record["scores_after"], record["column"]
    names = outputs if len(outputs) == len(before) else [str(output) for output in range(len(before))]
    order = sorted(range(len(before)), key=lambda output: (output != asked, -max(before[output], after[output])))
    for output in sorted(order[:MAX_SCORES]):
        yield Score(names[output], output == asked, before[output], after[output])
