"""Training of the parser on two data sets, one with boxes and drivable masks, one with panoptic masks; its measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.detection import PanopticQuality
from torchvision.ops import box_iou

from blobex.config.data import ImageSize
from blobex.config.training import ParserParams
from blobex.datasets.datamodule import NO_BOX, DetectionSet, SegmentationSet, batch_indices, checksum
from blobex.datasets.images import to_float
from blobex.networks.parser import FIRST_THING, Detections, Parser, detections, panoptic
from blobex.scenes.labels import DETECTION, DRIVABLE, SEMANTIC, UNKNOWN
from blobex.training.parser_loss import category_weights, detection_losses, segmentation_losses
from blobex.training.step_module import Batch, StepModule, derive_seed

MIN_SCORE = 0.05  # of detections that enter the average precision
MIN_AREA = 8.0  # pixels, of boxes that enter the average precision
MIN_IOU = 0.5  # of a detection and the true box that it matches
RECALLS = np.linspace(0, 1, 101)


class ParserModule(StepModule):
    """Trains a parser on batches of `parser_batches`."""

    weights: Tensor

    def __init__(
        self, params: ParserParams, size: ImageSize, detection: DetectionSet, segmentation: SegmentationSet, seed: int
    ) -> None:
        data = checksum(*vars(detection).values(), *vars(segmentation).values())
        super().__init__(params.training, seed, {"channels": params.channels, "setup": repr(size), "data": data})
        self.learning_rate = params.training.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parser = Parser(params.channels, size.height, size.width)
        self.parser.to(memory_format=torch.channels_last)
        self.register_buffer("weights", category_weights(segmentation.semantic, len(SEMANTIC)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parser.parameters(), lr=self.learning_rate, fused=self.fused)

    def training_step(self, batch: Batch, index: int) -> None:
        self.descend(self.optimizers(), self.loss, batch)

    def loss(self, chunk: Batch) -> Tensor:
        images, boxes, drivable, scenes, semantic, things, mirrored = chunk
        images, drivable = mirror(images, mirrored), mirror(drivable, mirrored)
        scenes, semantic, things = (mirror(maps, mirrored) for maps in (scenes, semantic, things))
        boxes = mirror_boxes(boxes, mirrored, images.shape[-1])
        count = len(images)
        output = self.parser(to_float(torch.cat([images, scenes])))  # together: one set of batch statistics
        losses = detection_losses(output[:count], boxes, drivable)
        losses |= segmentation_losses(output[count:], semantic, things, self.weights)
        self.record(**losses)
        return torch.stack(list(losses.values())).sum()


def parser_batches(
    detection: DetectionSet, segmentation: SegmentationSet, batch_size: int, seed: int
) -> Callable[[int], Batch]:
    """Return a function from a step to `batch_size` images of each data set and the mask of those to mirror."""

    def batches(step: int) -> Batch:
        first = batch_indices(step, len(detection.images), batch_size, seed)
        second = batch_indices(step, len(segmentation.images), batch_size, derive_seed(seed, 1))
        mirrored = torch.rand(batch_size, generator=torch.Generator().manual_seed(derive_seed(seed, 2, step))) < 0.5
        boxed = (detection.images[first], detection.boxes[first], detection.drivable[first])
        masked = (segmentation.images[second], segmentation.semantic[second], segmentation.things[second])
        return (*boxed, *masked, mirrored)

    return batches


def mirror(maps: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror those of the maps (N,...,W) that `mirrored` (N,) marks."""
    return torch.where(mirrored.view(-1, *[1] * (maps.ndim - 1)), maps.flip(-1), maps)


def mirror_boxes(boxes: Tensor, mirrored: Tensor, width: int) -> Tensor:
    """Mirror the boxes (N,M,5) of those images that `mirrored` (N,) marks."""
    category, x1, y1, x2, y2 = boxes.unbind(-1)
    flipped = torch.stack([category, width - x2, y1, width - x1, y2], dim=-1)
    return torch.where(mirrored[:, None, None], flipped, boxes)


@torch.no_grad()
def parser_measures(
    parser: nn.Module, detection: DetectionSet, segmentation: SegmentationSet, batch_size: int
) -> dict[str, float]:
    """Return `semantic_iou`, `drivable_iou`, `box_ap50` and `panoptic_quality` (Kirillov et al., CVPR 2019), 0 to 1.

    `parser` is a network from images to `ParserOutput`.
    """
    device = next(parser.parameters()).device
    drivable = torch.zeros(len(DRIVABLE), len(DRIVABLE), dtype=torch.int64)
    semantic = torch.zeros(len(SEMANTIC), len(SEMANTIC), dtype=torch.int64)
    predicted, truth = [], []
    for start in range(0, len(detection.images), batch_size):
        part = slice(start, start + batch_size)
        output = parser(to_float(detection.images[part].to(device))).to("cpu")
        drivable += confusion(output.drivable.argmax(1), detection.drivable[part], len(DRIVABLE))
        predicted += detections(output, MIN_SCORE)
        boxes = [rows[rows[:, 0] != NO_BOX] for rows in detection.boxes[part]]
        truth += [LabelledBoxes(rows[:, 1:], rows[:, 0]) for rows in boxes]
    quality = PanopticQuality(
        things=set(range(FIRST_THING, len(SEMANTIC))), stuffs=set(range(FIRST_THING)), return_per_class=True
    )
    for start in range(0, len(segmentation.images), batch_size):
        part = slice(start, start + batch_size)
        output = parser(to_float(segmentation.images[part].to(device))).to("cpu")
        labels, things = segmentation.semantic[part], segmentation.things[part]
        semantic += confusion(output.semantic.argmax(1), labels, len(SEMANTIC))
        quality.update(_panoptic_maps(*panoptic(output)), _panoptic_maps(labels, things))
    labelled = semantic.sum(1).roll(-FIRST_THING) > 0  # in the order of PanopticQuality: things, then stuff
    return {
        "semantic_iou": mean_iou(semantic),
        "drivable_iou": mean_iou(drivable),
        "box_ap50": average_precision(predicted, truth, MIN_AREA),
        "panoptic_quality": quality.compute()[0, labelled].mean().item(),
    }


def _panoptic_maps(category: Tensor, things: Tensor) -> Tensor:
    return torch.stack([category.long(), things.long()], dim=-1)


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
    for detected, image in zip(predicted, truth, strict=True):
        of_category = detected.categories == category
        true = image.categories == category
        counted = _counted(image, category, min_area)[true]
        total += int(counted.sum())
        order = detected.scores[of_category].argsort(descending=True, stable=True)
        overlaps = box_iou(detected.boxes[of_category][order], image.boxes[true])
        matches = _matches(overlaps, counted)
        for score, hit in zip(detected.scores[of_category][order].tolist(), matches, strict=True):
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
