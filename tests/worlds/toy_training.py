"""A small regression to train, with two optimisers as a GAN has."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from blobex.config.data import Run
from blobex.config.training import Checkpoints, Resume, Training
from blobex.tracking.tracker import NullTracker
from blobex.training.step_module import Batch, StepModule, derive_seed

RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
TRAINING = Training(
    steps=12,
    batch_size=4,
    accumulate=1,
    learning_rate=0.05,
    halve_every=5,
    checkpoint=Checkpoints(every_n_steps=4, keep=2, monitor="step", mode="max"),
    resume=Resume(source="last", run_id=None, step=None),
)


class Recorder(NullTracker):
    """Tracker that keeps the metrics it receives."""

    def __init__(self, run_id: str | None = "run-1") -> None:
        self.run_id = run_id
        self.metrics: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics, step=None) -> None:
        self.metrics.append((step, dict(metrics)))


class Noisy(StepModule):
    """Regression with noise from the step's generator."""

    optimizer_steps = 2

    def __init__(self, training: Training = TRAINING, config: dict | None = None, width: int = 3) -> None:
        super().__init__(training, RUN.seed, config or {"network": "toy"})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net, self.bias = nn.Linear(width, 1), nn.Linear(1, 1)
        self.rate = training.learning_rate

    def loss(self, chunk: Batch) -> Tensor:
        return (self.bias(self.net(chunk[0])) - chunk[1]).square().mean()

    def training_step(self, batch: Batch, index: int) -> None:
        noise = 0.1 * torch.randn(batch[0].shape, generator=self.generator())
        for optimizer in self.optimizers():
            self.descend(optimizer, self.loss, (batch[0] + noise, batch[1]))
        self.record(loss=self.loss(batch))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(part.parameters(), lr=self.rate) for part in (self.net, self.bias)]


def batches(step: int, count: int = 4) -> Batch:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(derive_seed(7, step)))
    return x, x.sum(1, keepdim=True)


def vary(training: Training = TRAINING, **changes) -> Training:
    return dataclasses.replace(training, **changes)
