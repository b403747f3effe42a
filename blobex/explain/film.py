"""Animations from images to their counterfactuals."""

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


def films(start: BlobLayout, counterfactuals: Counterfactuals, composer: Composer, rows: int) -> list[list[np.ndarray]]:
    """Return for each counterfactual FRAMES frames, uint8 (H,W,3), that interpolate linearly between the layouts.

    Args:
        start: Layouts of the N images.
        rows: Batch size.
    """
    form, found = composer.form, counterfactuals

    @torch.no_grad()
    def compose(vector: Tensor, image_index: Tensor, changed: Tensor) -> State:
        return {"image": composer.compose(vector, image_index, changed)}

    first, last = form.flatten(start)[found.image_index], form.flatten(found.layout)
    frames: list[list[np.ndarray]] = [[] for _ in range(len(found))]
    for weight in torch.linspace(0, 1, FRAMES).tolist():
        vectors = torch.lerp(first, last, weight)
        images = in_batches(compose, rows, vectors, found.image_index, found.changed)["image"]
        for film, image in zip(frames, images, strict=True):
            film.append(to_array(image.nan_to_num(0.0, 0.0, 0.0)))
    return frames
