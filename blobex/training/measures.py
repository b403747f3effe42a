"""Measures of the parser on labelled images: intersection over union and average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from blobex.networks.parser import Detections
from blobex.scenes.labels import DETECTION, UNKNOWN

MIN_IOU = 0.5  # of a detection and the true box that it matches
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class LabelledBoxes:
    """True boxes of one image."""

    boxes: Tensor  # M,4: x1, y1, x2, y2
    categories: Tensor  # M


def confusion(predicted: Tensor, labels: Tensor, categories: int) -> Tensor:
    """Return pixel counts (categories,categories) int64: row label, column prediction; unknown pixels are ignored."""
    known = labels != UNKNOWN
    index = labels[known].long() * categories + predicted[known].long()
    return torch.bincount(index, minlength=categories**2).view(categories, categories)


def mean_iou(counts: Tensor) -> float:
    """Return the mean intersection over union of the labelled categories; NaN if there is none."""
    counts = counts.double()
    correct, labelled = counts.diagonal(), counts.sum(1)
    return (correct / (labelled + counts.sum(0) - correct))[labelled > 0].mean().item()


def average_precision(predicted: Sequence[Detections], truth: Sequence[LabelledBoxes], min_area: float = 0.0) -> float:
    """Return AP50 as COCO defines it, the mean over the categories with true boxes; NaN if there are none.

    The detections of all images, by decreasing score, each match the best free true box of their category and image of
    IoU at least 0.5; precision, made monotone, is read at 101 recalls. True boxes of less than `min_area` pixels and
    detections that match only those are ignored.
    """
    precisions = [
        _category_precision(predicted, truth, category, min_area)
        for category in range(len(DETECTION))
        if any(_counted(image, category, min_area).any() for image in truth)
    ]
    return float(np.mean(precisions)) if precisions else float("nan")


def _counted(image: LabelledBoxes, category: int, min_area: float) -> Tensor:
    sides = image.boxes[:, 2:] - image.boxes[:, :2]
    return (image.categories == category) & (sides.prod(1) >= min_area)


def _category_precision(
    predicted: Sequence[Detections], truth: Sequence[LabelledBoxes], category: int, min_area: float
) -> float:
    scores: list[float] = []
    hits: list[bool] = []
    total = 0
    for detections, image in zip(predicted, truth, strict=True):
        of_category = detections.categories == category
        true = image.categories == category
        counted = _counted(image, category, min_area)[true]
        total += int(counted.sum())
        order = detections.scores[of_category].argsort(descending=True, stable=True)
        overlaps = box_iou(detections.boxes[of_category][order], image.boxes[true])
        matches = _matches(overlaps, counted)
        for score, hit in zip(detections.scores[of_category][order].tolist(), matches, strict=True):
            if hit is not None:
                scores.append(score)
                hits.append(hit)
    ranking = np.argsort(-np.array(scores), kind="stable")
    correct = np.cumsum(np.array(hits, dtype=float)[ranking])
    precision = np.maximum.accumulate((correct / np.arange(1, len(correct) + 1))[::-1])[::-1]
    indices = np.searchsorted(correct / total, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(indices, len(precision))].mean())


def _matches(overlaps: Tensor, counted: Tensor) -> list[bool | None]:
    """Match detections in order: True for a hit, False for a miss, None if ignored."""
    free = torch.ones_like(counted)
    matches: list[bool | None] = []
    for row in overlaps:
        candidates = row * (free & counted) if (free & counted & (row >= MIN_IOU)).any() else row * free
        if len(row) == 0 or candidates.max() < MIN_IOU:
            matches.append(False)
            continue
        best = int(candidates.argmax())
        free[best] = False
        matches.append(True if counted[best] else None)
    return matches
