"""Training of the control model."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from blobex.config.data import ImageSize
from blobex.config.training import ControlParams
from blobex.datasets.controls import ControlSet
from blobex.datasets.datamodule import checksum
from blobex.datasets.images import to_float
from blobex.networks.control import ControlModel
from blobex.scenes.controls import CONTROLS, HALF
from blobex.training.step_module import in_batches
from blobex.training.supervised import SupervisedModule


class ControlModule(SupervisedModule):
    """Trains a control model. Batches: images uint8 (N,3,height,width) and controls (N,2)."""

    model: ControlModel
    objective = staticmethod(F.mse_loss)
    measure = "control_loss"

    def __init__(self, params: ControlParams, size: ImageSize, data: ControlSet, seed: int) -> None:
        config = {"setup": repr(size), "data": checksum(data.images, data.controls)}
        super().__init__(params.training, seed, config, partial(ControlModel, size.height, size.width))


@torch.no_grad()
def control_measures(model: ControlModel, data: ControlSet, batch_size: int) -> dict[str, float]:
    """Return `error_<control>`, the mean absolute error, and `brake_accuracy`: the share on the right side of half."""
    device = next(model.parameters()).device
    given = in_batches(lambda images: model(to_float(images.to(device))).cpu(), data.images, size=batch_size)
    errors = (given - data.controls).abs().double().mean(0)
    brakes = [values[:, CONTROLS.index("brake")] >= HALF for values in (given, data.controls)]
    by_name = {f"error_{name}": error for name, error in zip(CONTROLS, errors.tolist(), strict=True)}
    return {**by_name, "brake_accuracy": (brakes[0] == brakes[1]).double().mean().item()}
