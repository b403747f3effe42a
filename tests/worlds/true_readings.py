"""Synthetic scenes as a parser without errors sees them: its output, and readings of true labels."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import one_hot

from blobex.networks.parser import STRIDE, Detections, ParserOutput
from blobex.perception.objects import read_scene
from blobex.perception.reading import SceneReading
from blobex.scenes.labels import DETECTION, DRIVABLE, SEMANTIC
from blobex.scenes.render import Rendering, render
from blobex.scenes.scene import Scene
from blobex.training.parser_loss import box_targets, thing_targets


def true_detections(rendering: Rendering) -> Detections:
    boxes = [[box.x1, box.y1, box.x2, box.y2] for box in rendering.boxes]
    return Detections(
        torch.tensor(boxes).reshape(-1, 4),
        torch.ones(len(boxes)),
        torch.tensor([DETECTION.index(box.category) for box in rendering.boxes], dtype=torch.int64),
    )


def reading_of(scene: Scene, height: int = 64) -> SceneReading:
    rendering = render(scene, height)
    return read_scene(true_detections(rendering), rendering.semantic, rendering.drivable, rendering.image)


def true_output(rendering: Rendering) -> ParserOutput:
    """The output of a parser that makes no error about a scene."""
    height, width = rendering.semantic.shape
    rows = [[DETECTION.index(box.category), box.x1, box.y1, box.x2, box.y2] for box in rendering.boxes]
    targets = box_targets(torch.tensor(rows).reshape(1, -1, 5), height, width)
    offset, size = (torch.zeros(1, 2, height // STRIDE, width // STRIDE) for _ in range(2))
    offset[targets.image, :, targets.row, targets.column] = targets.offset
    size[targets.image, :, targets.row, targets.column] = targets.size
    semantic = torch.from_numpy(np.where(rendering.semantic == 255, 0, rendering.semantic)).long()[None]
    drivable = torch.from_numpy(rendering.drivable).long()[None]
    counted = rendering.semantic >= SEMANTIC.index("person")
    numbers = np.unique(np.where(counted, rendering.instance, 0), return_inverse=True)[1].reshape(height, width)
    heat, shifts = thing_targets(torch.from_numpy(numbers.astype(np.uint8))[None])
    return ParserOutput(
        heat=targets.heat.clamp(1e-4, 1 - 1e-4).logit(),
        offset=offset,
        size=size,
        semantic=20.0 * one_hot(semantic, len(SEMANTIC)).permute(0, 3, 1, 2),
        centres=heat.clamp(1e-4, 1 - 1e-4).logit(),
        shifts=shifts,
        drivable=20.0 * one_hot(drivable, len(DRIVABLE)).permute(0, 3, 1, 2),
    )
