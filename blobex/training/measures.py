"""How well networks that read pictures do on labelled ones: intersection over union, average precision, accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from blobex.networks.parser import Detections
from blobex.scenes.labels import DETECTION, UNKNOWN

OVERLAP = 0.5  # IoU from which a box counts as found
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class LabelledBoxes:
    """The true boxes of one picture."""

    boxes: Tensor  # M,4: x1, y1, x2, y2
    categories: Tensor  # M


def confusion(predicted: Tensor, labels: Tensor, categories: int) -> Tensor:
    """Pixel counts (categories,categories) int64: row the label, column the prediction; unknown pixels do not count."""
    known = labels != UNKNOWN
    index = labels[known].long() * categories + predicted[known].long()
    return torch.bincount(index, minlength=categories**2).view(categories, categories)


def mean_iou(counts: Tensor) -> float:
    """Mean intersection over union of the categories that occur among the labels; NaN if none does."""
    counts = counts.double()
    correct, labelled = counts.diagonal(), counts.sum(1)
    there = labelled > 0
    return (correct / (labelled + counts.sum(0) - correct))[there].mean().item()


def average_precision(found: Sequence[Detections], truth: Sequence[LabelledBoxes], smallest: float = 0.0) -> float:
    """AP50, the mean over the categories with true boxes; NaN if there are none.

    As COCO defines it: detections of all pictures by falling score; each takes the best true box left of its category
    and picture if their IoU is at least 0.5; precision, made monotone, is read at 101 recalls. True boxes of less than
    `smallest` pixels' area, and detections that match only those, do not count.
    """
    scores = [
        _category_precision(found, truth, category, smallest)
        for category in range(len(DETECTION))
        if any(_counted(some, category, smallest).any() for some in truth)
    ]
    return float(np.mean(scores)) if scores else float("nan")


def _counted(some: LabelledBoxes, category: int, smallest: float) -> Tensor:
    sides = some.boxes[:, 2:] - some.boxes[:, :2]
    return (some.categories == category) & (sides.prod(1) >= smallest)


def _category_precision(
    found: Sequence[Detections], truth: Sequence[LabelledBoxes], category: int, smallest: float
) -> float:
    scores: list[float] = []
    hits: list[bool] = []
    total = 0
    for guess, some in zip(found, truth, strict=True):
        mine, all_true = guess.categories == category, some.categories == category
        counted = _counted(some, category, smallest)[all_true]
        total += int(counted.sum())
        falling = guess.scores[mine].argsort(descending=True, stable=True)
        overlaps = box_iou(guess.boxes[mine][falling], some.boxes[all_true])
        for score, hit in zip(guess.scores[mine][falling].tolist(), _matches(overlaps, counted), strict=True):
            if hit is not None:
                scores.append(score)
                hits.append(hit)
    order = np.argsort(-np.array(scores), kind="stable")
    right = np.cumsum(np.array(hits, dtype=float)[order])
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    places = np.searchsorted(right / total, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())


def _matches(overlaps: Tensor, counted: Tensor) -> list[bool | None]:
    """For each detection, by falling score: right, wrong, or None where it does not count."""
    free = torch.ones_like(counted)
    outcome: list[bool | None] = []
    for row in overlaps:
        candidates = row * (free & counted) if (free & counted & (row >= OVERLAP)).any() else row * free
        if len(row) == 0 or candidates.max() < OVERLAP:
            outcome.append(False)
            continue
        place = int(candidates.argmax())
        free[place] = False
        outcome.append(True if counted[place] else None)
    return outcome
