"""Base class of all training modules: manual optimiser steps whose data and randomness depend on the step alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as lightning
import torch
from torch import Tensor

from blobex.config.training import Training
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import batch_indices

Batch = tuple[Tensor, ...]  # tensors of equal length: sample i is entry i of each
CPU = torch.device("cpu")
DATA_SHARE = 0.5  # of free GPU memory that the training data may take


class StepModule(lightning.LightningModule):
    """Training module that makes its own optimiser steps.

    Subclasses set `optimizer_steps` (optimiser steps per batch; a GAN has 2), implement `training_step(batch, index)`
    and `configure_optimizers()`. `config` holds values that a checkpoint must agree with to be resumed.
    """

    optimizer_steps = 1

    def __init__(self, training: Training, seed: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.accumulate, self.seed, self.config = training.accumulate, seed, dict(config)
        self.scores: dict[str, tuple[int, float]] = {}  # latest step and value of each measure
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def depends_on(self, **content: Any) -> None:
        """Add values that a checkpoint must agree with, such as checksums of data and of other networks."""
        self.config |= content

    @property
    def step(self) -> int:
        """Number of batches trained on, across resumptions."""
        return self.trainer.global_step // self.optimizer_steps

    @property
    def fused(self) -> bool | None:
        """Argument of optimisers: on a GPU one kernel updates all parameters; elsewhere torch's default."""
        return True if self.device.type == "cuda" else None

    def generator(self, step: int | None = None) -> torch.Generator:
        """Return the random generator of a step (default: the current one) for this process and device."""
        numbers = (self.seed, self.step if step is None else step, self.global_rank)
        return torch.Generator(self.device).manual_seed(derive_seed(*numbers))

    def descend(self, optimizer: Any, loss: Callable[[Batch], Tensor], batch: Batch) -> None:
        """Make one optimiser step on the mean of `loss` over the `accumulate` equal chunks of a batch."""
        optimizer.zero_grad(set_to_none=True)
        for index in range(self.accumulate):
            self.manual_backward(loss(split_batch(batch, index, self.accumulate)) / self.accumulate)
        optimizer.step()

    def record(self, **measures: Tensor) -> None:
        """Record scalars of this step; their means over the steps between two reports are tracked."""
        for name, value in measures.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
            self._counts[name] = self._counts.get(name, 0) + 1

    def check_finite(self) -> None:
        """Raise BlobexError if a scalar recorded since the last report is not finite."""
        wrong = next((name for name, total in self._sums.items() if not torch.isfinite(total)), None)
        if wrong is not None:
            raise BlobexError(f"{wrong} is not finite at step {self.step}: lower the learning rate and train again")

    def take_records(self) -> dict[str, float]:
        """Return the means of the recorded scalars and forget them."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def score(self, measures: Mapping[str, float]) -> None:
        """Set measures of the current step, for `checkpoint.monitor`."""
        self.scores |= {name: (self.step, value) for name, value in measures.items()}


def derive_seed(*numbers: int) -> int:
    """Return a 63-bit seed from non-negative integers such as (seed, step)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def split_batch(batch: Batch, index: int, parts: int) -> Batch:
    """Return part `index` of a batch cut into equal contiguous `parts`."""
    size = len(batch[0]) // parts
    return tuple(tensor[index * size : (index + 1) * size] for tensor in batch)


def sample_batches(
    data: Batch, count: int, training: Training, seed: int, device: torch.device = CPU
) -> Callable[[int], Batch]:
    """Return the function from a step to its batch, of the first `count` samples of the tensors in `data`.

    On a CUDA `device` with enough memory the data are copied there once, see `fits`.
    """
    size = training.batch_size * training.accumulate
    kept = tuple(tensor.to(device) for tensor in data) if fits(data, device) else data

    def batch(step: int) -> Batch:
        indices = batch_indices(step, count, size, seed).to(kept[0].device)
        return tuple(tensor[indices] for tensor in kept)

    return batch


def fits(data: Batch, device: torch.device) -> bool:
    """Return True if `device` is a GPU of which tensors would take at most the share DATA_SHARE of the free memory."""
    needed = sum(tensor.nbytes for tensor in data)
    return device.type == "cuda" and needed <= DATA_SHARE * torch.cuda.mem_get_info(device)[0]


@torch.no_grad()
def in_batches(function: Callable[..., Tensor], *tensors: Tensor, size: int = 64) -> Tensor:
    """Apply a function to tensors of equal length, `size` samples at a time."""
    return torch.cat([function(*parts) for parts in zip(*(tensor.split(size) for tensor in tensors), strict=True)])
