"""The way from a picture to its counterfactual, as a film."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.verify import Counterfactuals
from blobex.datasets.images import to_array
from blobex.layout.blobs import BlobLayout
from blobex.optim.batching import State, in_batches

FRAMES = 16


def films(start: BlobLayout, found: Counterfactuals, composer: Composer, rows: int) -> list[list[np.ndarray]]:
    """Frames, uint8 (H,W,3), on the straight way from each answer's start to its end; every blob stays itself.

    `start` are the N pictures' layouts; `rows` pictures are made at a time.
    """
    form = composer.form

    @torch.no_grad()
    def paint(vector: Tensor, image_index: Tensor, blobs: Tensor) -> State:
        return {"picture": composer.compose(vector, image_index, blobs)}

    begins, ends = form.flatten(start)[found.image_index], form.flatten(found.layout)
    shown: list[list[np.ndarray]] = [[] for _ in range(len(found))]
    for share in torch.linspace(0, 1, FRAMES).tolist():
        way = torch.lerp(begins, ends, share)
        pictures = in_batches(paint, rows, way, found.image_index, found.changed)["picture"]
        for film, picture in zip(shown, pictures, strict=True):
            film.append(to_array(picture.nan_to_num(0.0, 0.0, 0.0)))
    return shown
