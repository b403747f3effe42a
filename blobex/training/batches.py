"""Batches of training samples, and functions applied batch by batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from blobex.config.training import Training
from blobex.datasets.datamodule import batch_indices
from blobex.training.step_module import Batch


def sample_batches(data: Batch, count: int, training: Training, seed: int) -> Callable[[int], Batch]:
    """Return the function from a step to its batch, of the first `count` samples of the tensors in `data`."""
    size = training.batch_size * training.accumulate

    def batch(step: int) -> Batch:
        indices = batch_indices(step, count, size, seed)
        return tuple(tensor[indices] for tensor in data)

    return batch


@torch.no_grad()
def in_batches(function: Callable[..., Tensor], *tensors: Tensor, size: int = 64) -> Tensor:
    """Apply a function to tensors of equal length, `size` samples at a time."""
    return torch.cat([function(*parts) for parts in zip(*(tensor.split(size) for tensor in tensors), strict=True)])
