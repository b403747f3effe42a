"""Training of the parser on two data sets at once: boxes and drivable masks, semantic and panoptic masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchmetrics.detection import PanopticQuality

from blobex.config.data import ImageSize
from blobex.config.training import Parser as ParserParams
from blobex.datasets.datamodule import NO_BOX, DetectionSet, SegmentationSet, batch_indices, checksum
from blobex.datasets.images import to_float
from blobex.networks.parser import FIRST_THING, Parser, detections, panoptic
from blobex.scenes.labels import DRIVABLE, SEMANTIC
from blobex.training.fit import Batch, StepModule, seed_of
from blobex.training.measures import LabelledBoxes, average_precision, confusion, mean_iou
from blobex.training.parser_loss import category_weights, detection_losses, segmentation_losses

SURE = 0.05  # score from which boxes enter the average precision
SMALLEST = 8.0  # pixels: the area of boxes that are plain enough to be measured


class ParserModule(StepModule):
    """The parser in training, on batches of `parser_batches`."""

    weights: Tensor

    def __init__(
        self, params: ParserParams, setup: ImageSize, detection: DetectionSet, segmentation: SegmentationSet, seed: int
    ) -> None:
        data = checksum(*vars(detection).values(), *vars(segmentation).values())
        super().__init__(params.training, seed, {"channels": params.channels, "setup": repr(setup), "data": data})
        self.learning_rate = params.training.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parser = Parser(params.channels, setup.height, setup.width)
        self.parser.to(memory_format=torch.channels_last)
        self.register_buffer("weights", category_weights(segmentation.semantic, len(SEMANTIC)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parser.parameters(), lr=self.learning_rate)

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
    """The batch of a step: `batch_size` pictures of each data set, and which of them to mirror."""

    def batches(step: int) -> Batch:
        first = batch_indices(step, len(detection.images), batch_size, seed)
        second = batch_indices(step, len(segmentation.images), batch_size, seed_of(seed, 1))
        mirrored = torch.rand(batch_size, generator=torch.Generator().manual_seed(seed_of(seed, 2, step))) < 0.5
        boxed = (detection.images[first], detection.boxes[first], detection.drivable[first])
        masked = (segmentation.images[second], segmentation.semantic[second], segmentation.things[second])
        return (*boxed, *masked, mirrored)

    return batches


def mirror(maps: Tensor, mirrored: Tensor) -> Tensor:
    """Those of the maps (N,...,W) that `mirrored` (N,) marks, left to right."""
    return torch.where(mirrored.view(-1, *[1] * (maps.ndim - 1)), maps.flip(-1), maps)


def mirror_boxes(boxes: Tensor, mirrored: Tensor, width: int) -> Tensor:
    """The boxes (N,M,5) of pictures of which `mirrored` (N,) marks those seen in a mirror."""
    category, x1, y1, x2, y2 = boxes.unbind(-1)
    seen = torch.stack([category, width - x2, y1, width - x1, y2], dim=-1)
    return torch.where(mirrored[:, None, None], seen, boxes)


@torch.no_grad()
def parser_measures(
    parser: Parser, detection: DetectionSet, segmentation: SegmentationSet, batch_size: int
) -> dict[str, float]:
    """`semantic_iou`, `drivable_iou`, `box_ap50` and `panoptic_quality` (Kirillov et al., CVPR 2019), each 0 to 1.

    Boxes of less than 8 pixels' area do not count.
    """
    device = next(parser.parameters()).device
    drivable = torch.zeros(len(DRIVABLE), len(DRIVABLE), dtype=torch.int64)
    semantic = torch.zeros(len(SEMANTIC), len(SEMANTIC), dtype=torch.int64)
    found, truth = [], []
    for part in _parts(len(detection.images), batch_size):
        output = parser(to_float(detection.images[part].to(device))).to("cpu")
        drivable += confusion(output.drivable.argmax(1), detection.drivable[part], len(DRIVABLE))
        found += detections(output, SURE)
        truth += [LabelledBoxes(row[:, 1:], row[:, 0]) for row in map(_without_padding, detection.boxes[part])]
    quality = PanopticQuality(
        things=set(range(FIRST_THING, len(SEMANTIC))), stuffs=set(range(FIRST_THING)), return_per_class=True
    )
    for part in _parts(len(segmentation.images), batch_size):
        output = parser(to_float(segmentation.images[part].to(device))).to("cpu")
        labels, things = segmentation.semantic[part], segmentation.things[part]
        semantic += confusion(output.semantic.argmax(1), labels, len(SEMANTIC))
        quality.update(_segments(*panoptic(output)), _segments(labels, things))
    there = semantic.sum(1).roll(-FIRST_THING) > 0  # in the order of the quality's classes: things, then stuff
    return {
        "semantic_iou": mean_iou(semantic),
        "drivable_iou": mean_iou(drivable),
        "box_ap50": average_precision(found, truth, SMALLEST),
        "panoptic_quality": quality.compute()[0, there].mean().item(),
    }


def _parts(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _without_padding(rows: Tensor) -> Tensor:
    return rows[rows[:, 0] != NO_BOX]


def _segments(category: Tensor, things: Tensor) -> Tensor:
    return torch.stack([category.long(), things.long()], dim=-1)
