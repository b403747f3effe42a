"""Training of the decision model (BDD-OIA: Xu et al., CVPR 2020)."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from blobex.config.data import ImageSize
from blobex.config.training import DecisionParams
from blobex.datasets.datamodule import DecisionSet, checksum
from blobex.datasets.images import to_float
from blobex.networks.decision import DecisionModel
from blobex.scenes.rules import ACTIONS
from blobex.training.supervised import SupervisedModule


class DecisionModule(SupervisedModule):
    """Trains a decision model. Batches: images uint8 (N,3,height,width) and actions (N,4).

    Images are not mirrored: a mirror image swaps left and right, and the side of the road to drive on.
    """

    model: DecisionModel
    objective = staticmethod(F.binary_cross_entropy_with_logits)
    measure = "decision_loss"

    def __init__(self, params: DecisionParams, size: ImageSize, data: DecisionSet, seed: int) -> None:
        data_hash = checksum(data.images, data.actions)
        config = {"architecture": params.architecture, "setup": repr(size), "data": data_hash}
        build = partial(DecisionModel, params.architecture, size.height, size.width)
        super().__init__(params.training, seed, config, build)


@torch.no_grad()
def decision_measures(model: DecisionModel, data: DecisionSet, batch_size: int) -> dict[str, float]:
    """Return the mean `accuracy`, `accuracy_<action>` of each action, and the mean `f1` over the actions."""
    device = next(model.parameters()).device
    logits = torch.cat([model(to_float(images.to(device))).cpu() for images in data.images.split(batch_size)])
    predicted, actual = logits > 0, data.actions > 0.5
    accuracy = (predicted == actual).double().mean(0)
    hits = (predicted & actual).sum(0)
    f1 = 2 * hits / (predicted.sum(0) + actual.sum(0)).clamp(min=1)
    by_action = {f"accuracy_{action}": value for action, value in zip(ACTIONS, accuracy.tolist(), strict=True)}
    return {"accuracy": accuracy.mean().item(), **by_action, "f1": f1.mean().item()}
