"""Training of the layout flow of a BlobGAN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.training import Training
from blobex.networks.layout_flow import LayoutFlow
from blobex.networks.ops import pixel_norm
from blobex.training.step_module import Batch, StepModule

BETAS = (0.9, 0.99)


class LayoutModule(StepModule):
    """Trains a layout flow by flow matching (Lipman et al., ICLR 2023, equation 14). Batches: w (N,z_dim).

    Times are logit-normal, so most are near 1/2 (Esser et al., ICML 2024, section 3.1).
    """

    def __init__(self, flow: LayoutFlow, training: Training, seed: int) -> None:
        super().__init__(training, seed, {"z_dim": flow.shape.z_dim})
        self.flow, self.rate = flow, training.learning_rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.flow.parameters(), lr=self.rate, betas=BETAS)

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            (w,) = chunk
            noise = pixel_norm(torch.randn(w.shape, generator=random, device=self.device))
            time = torch.randn(len(w), generator=random, device=self.device).sigmoid()
            with torch.autocast(w.device.type, enabled=False):
                velocity = self.flow.velocity(noise + (w - noise) * time[:, None], time)
            error = F.mse_loss(velocity, w - noise)
            self.record(velocity_error=error)
            return error

        self.descend(self.optimizers(), loss, batch)
