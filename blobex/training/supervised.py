"""Training of a network of images on a target of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from blobex.config.training import Training
from blobex.datasets.images import to_float
from blobex.training.step_module import Batch, StepModule


class SupervisedModule(StepModule):
    """Minimises `objective` of outputs and targets by Adam. Batches: images uint8 (N,3,height,width) and targets.

    Subclasses set `objective` and `measure`, the name under which the loss is recorded.
    """

    objective: Callable[[Tensor, Tensor], Tensor]
    measure: str

    def __init__(
        self, training: Training, seed: int, config: Mapping[str, Any], build: Callable[[], nn.Module]
    ) -> None:
        """Let `build` make the network, whose initial weights depend on the seed alone."""
        super().__init__(training, seed, config)
        self.learning_rate = training.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build()
        self.model.to(memory_format=torch.channels_last)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, fused=self.fused)

    def training_step(self, batch: Batch, index: int) -> None:
        self.descend(self.optimizers(), self.loss, batch)

    def loss(self, chunk: Batch) -> Tensor:
        images, targets = chunk
        x = to_float(images).contiguous(memory_format=torch.channels_last)
        loss = self.objective(self.model(x), targets)
        self.record(**{self.measure: loss})
        return loss
