"""Recognition of images of another world than that of the networks, by how unsure the parser is about them.

The probability of the likeliest category is lower for images unlike those of training (Hendrycks and Gimpel, ICLR
2017). How low is usual follows from images that the generator makes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from blobex.datasets.images import to_float
from blobex.networks.blobgan import BlobGAN, sample_images
from blobex.networks.parser import Parser
from blobex.optim.batching import float32_batch_size, in_batches

Foreign = Callable[[Tensor], list[bool]]  # of images (N,3,H,W) in [-1,1], whether each is of another world
SURE = 0.05  # uncertainty up to which no image is foreign
FACTOR = 2.0  # least uncertainty of a foreign image, in medians of generated images
GENERATED, SEED = 32, 0  # images whose median is taken


@torch.no_grad()
def uncertainty(parser: Parser, images: Tensor) -> Tensor:
    """Return the mean over pixels of 1 minus the probability of the likeliest category, (N,), for images (N,3,H,W)."""
    rows = float32_batch_size(len(images), images.device)

    def compute(part: Tensor) -> dict[str, Tensor]:
        likeliest = parser(part.contiguous(memory_format=torch.channels_last)).semantic.softmax(1).amax(1)
        return {"uncertainty": 1 - likeliest.mean((1, 2))}

    return in_batches(compute, rows, images)["uncertainty"]


def foreign_images(parser: Parser, blobgan: BlobGAN, device: torch.device) -> Foreign:
    """Return whether images are foreign: more than `FACTOR` times as uncertain as generated ones, and than `SURE`."""

    @cache  # generated when the first image is not sure
    def usual() -> float:
        with torch.no_grad():
            images = torch.cat(list(sample_images(blobgan, GENERATED, float32_batch_size(GENERATED, device), SEED)))
        return uncertainty(parser, to_float(images.to(device))).median().item()

    def foreign(images: Tensor) -> list[bool]:
        found = uncertainty(parser, images.to(device)) if len(images) else torch.zeros(0)
        return [value > SURE and value > FACTOR * usual() for value in found.tolist()]

    return foreign
