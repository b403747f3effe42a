"""Synthetic scenes as a parser without fault would see them: readings from true labels."""

from __future__ import annotations

import torch

from blobex.networks.parser import Detections
from blobex.perception.objects import read_labels
from blobex.perception.reading import SceneReading
from blobex.scenes.labels import DETECTION
from blobex.scenes.render import Rendering, render
from blobex.scenes.scene import Scene


def true_detections(rendering: Rendering) -> Detections:
    boxes = [[box.x1, box.y1, box.x2, box.y2] for box in rendering.boxes]
    return Detections(
        torch.tensor(boxes).reshape(-1, 4),
        torch.ones(len(boxes)),
        torch.tensor([DETECTION.index(box.category) for box in rendering.boxes], dtype=torch.int64),
    )


def reading_of(scene: Scene, height: int = 64) -> SceneReading:
    picture = render(scene, height)
    return read_labels(true_detections(picture), picture.semantic, picture.drivable, picture.image)
