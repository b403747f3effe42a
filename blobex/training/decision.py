"""Training of the decision model (BDD-OIA: Xu et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.training import Decision as DecisionParams
from blobex.datasets.datamodule import DecisionSet, batch_indices, checksum
from blobex.datasets.images import to_float
from blobex.networks.decision import DecisionModel
from blobex.scenes.rules import ACTIONS
from blobex.training.fit import Batch, StepModule


class DecisionModule(StepModule):
    """The decision model in training, on batches of `decision_batches`."""

    def __init__(self, params: DecisionParams, setup: ImageSize, data: DecisionSet, seed: int) -> None:
        config = {"architecture": params.architecture, "setup": repr(setup)}
        super().__init__(params.training, seed, {**config, "data": checksum(data.images, data.actions)})
        self.learning_rate = params.training.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = DecisionModel(params.architecture, setup.height, setup.width)
        self.model.to(memory_format=torch.channels_last)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)

    def training_step(self, batch: Batch, index: int) -> None:
        self.descend(self.optimizers(), self.loss, batch)

    def loss(self, chunk: Batch) -> Tensor:
        images, actions = chunk
        x = to_float(images).contiguous(memory_format=torch.channels_last)
        loss = F.binary_cross_entropy_with_logits(self.model(x), actions)
        self.record(decision_loss=loss)
        return loss


def decision_batches(data: DecisionSet, batch_size: int, seed: int) -> Callable[[int], Batch]:
    """The pictures and actions of a step.

    Nothing is mirrored: in a mirror left and right change places, and so does the side of the road that one drives on.
    """

    def batches(step: int) -> Batch:
        chosen = batch_indices(step, len(data.images), batch_size, seed)
        return data.images[chosen], data.actions[chosen]

    return batches


@torch.no_grad()
def decision_measures(model: DecisionModel, data: DecisionSet, batch_size: int) -> dict[str, float]:
    """`accuracy`, its mean over the actions, `accuracy_<action>`, and `f1`, the mean of the actions' F1 scores."""
    device = next(model.parameters()).device
    logits = torch.cat([model(to_float(part.to(device))).cpu() for part in data.images.split(batch_size)])
    positive, wanted = logits > 0, data.actions > 0.5
    right = (positive == wanted).double().mean(0)
    hits = (positive & wanted).sum(0)
    f1 = 2 * hits / (positive.sum(0) + wanted.sum(0)).clamp(min=1)
    each = {f"accuracy_{action}": value for action, value in zip(ACTIONS, right.tolist(), strict=True)}
    return {"accuracy": right.mean().item(), **each, "f1": f1.mean().item()}
