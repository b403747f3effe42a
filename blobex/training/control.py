"""Training of the control model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.training import ControlParams
from blobex.datasets.controls import ControlSet
from blobex.datasets.datamodule import checksum
from blobex.datasets.images import to_float
from blobex.networks.control import ControlModel
from blobex.scenes.controls import CONTROLS, HALF
from blobex.training.step_module import Batch, StepModule, in_batches


class ControlModule(StepModule):
    """Trains a control model. Batches: images uint8 (N,3,height,width) and controls (N,2)."""

    def __init__(self, params: ControlParams, size: ImageSize, data: ControlSet, seed: int) -> None:
        super().__init__(params.training, seed, {"setup": repr(size), "data": checksum(data.images, data.controls)})
        self.learning_rate = params.training.learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = ControlModel(size.height, size.width)
        self.model.to(memory_format=torch.channels_last)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.model.parameters(), lr=self.learning_rate)

    def training_step(self, batch: Batch, index: int) -> None:
        self.descend(self.optimizers(), self.loss, batch)

    def loss(self, chunk: Batch) -> Tensor:
        images, controls = chunk
        x = to_float(images).contiguous(memory_format=torch.channels_last)
        loss = F.mse_loss(self.model(x), controls)
        self.record(control_loss=loss)
        return loss


@torch.no_grad()
def control_measures(model: ControlModel, data: ControlSet, batch_size: int) -> dict[str, float]:
    """Return `error_<control>`, the mean absolute error, and `brake_accuracy`: the share on the right side of half."""
    device = next(model.parameters()).device
    given = in_batches(lambda images: model(to_float(images.to(device))).cpu(), data.images, size=batch_size)
    errors = (given - data.controls).abs().double().mean(0)
    brakes = [values[:, CONTROLS.index("brake")] >= HALF for values in (given, data.controls)]
    by_name = {f"error_{name}": error for name, error in zip(CONTROLS, errors.tolist(), strict=True)}
    return {**by_name, "brake_accuracy": (brakes[0] == brakes[1]).double().mean().item()}
