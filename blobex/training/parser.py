"""Training of the parser on two data sets at once: one with boxes and drivable masks, one with panoptic masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torchmetrics.detection import PanopticQuality

from blobex.config.data import ImageSize
from blobex.config.training import ParserParams
from blobex.datasets.datamodule import NO_BOX, DetectionSet, SegmentationSet, batch_indices, checksum
from blobex.datasets.images import to_float
from blobex.networks.parser import FIRST_THING, Parser, detections, panoptic
from blobex.scenes.labels import DRIVABLE, SEMANTIC
from blobex.training.measures import LabelledBoxes, average_precision, confusion, mean_iou
from blobex.training.parser_loss import category_weights, detection_losses, segmentation_losses
from blobex.training.step_module import Batch, StepModule, derive_seed

MIN_SCORE = 0.05  # of detections that enter the average precision
MIN_AREA = 8.0  # pixels, of boxes that enter the average precision


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
    parser: Parser, detection: DetectionSet, segmentation: SegmentationSet, batch_size: int
) -> dict[str, float]:
    """Return `semantic_iou`, `drivable_iou`, `box_ap50` and `panoptic_quality` (Kirillov et al., CVPR 2019), 0 to 1.

    Boxes of less than 8 pixels' area are ignored.
    """
    device = next(parser.parameters()).device
    drivable = torch.zeros(len(DRIVABLE), len(DRIVABLE), dtype=torch.int64)
    semantic = torch.zeros(len(SEMANTIC), len(SEMANTIC), dtype=torch.int64)
    predicted, truth = [], []
    for part in _slices(len(detection.images), batch_size):
        output = parser(to_float(detection.images[part].to(device))).to("cpu")
        drivable += confusion(output.drivable.argmax(1), detection.drivable[part], len(DRIVABLE))
        predicted += detections(output, MIN_SCORE)
        truth += [LabelledBoxes(row[:, 1:], row[:, 0]) for row in map(_without_padding, detection.boxes[part])]
    quality = PanopticQuality(
        things=set(range(FIRST_THING, len(SEMANTIC))), stuffs=set(range(FIRST_THING)), return_per_class=True
    )
    for part in _slices(len(segmentation.images), batch_size):
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


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def _without_padding(rows: Tensor) -> Tensor:
    return rows[rows[:, 0] != NO_BOX]


def _panoptic_maps(category: Tensor, things: Tensor) -> Tensor:
    return torch.stack([category.long(), things.long()], dim=-1)
