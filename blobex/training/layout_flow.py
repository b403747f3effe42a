"""Training of the layout flow on the layouts of real images."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.training import Training
from blobex.datasets.datamodule import checksum
from blobex.datasets.images import to_float
from blobex.layout.assign import layout_from_ellipses, with_appearance
from blobex.layout.blobs import BlobLayout
from blobex.networks.layout_network import LayoutFlow
from blobex.networks.ops import pixel_norm
from blobex.training.painting import PaintModule
from blobex.training.painting_data import PaintingData
from blobex.training.step_module import Batch, StepModule, in_batches, sample_batches

BETAS = (0.9, 0.99)
MAX_FITTED = 20_000  # layouts of the principal component analysis, which are in memory at once


class LayoutModule(StepModule):
    """Trains a layout flow by flow matching (Lipman et al., ICLR 2023, equation 14). Batches: w (N,z_dim).

    Times are logit-normal, so most are near 1/2 (Esser et al., ICML 2024, section 3.1).
    """

    def __init__(self, flow: LayoutFlow, training: Training, seed: int) -> None:
        super().__init__(training, seed, {"z_dim": flow.network.z_dim})
        self.flow, self.rate = flow, training.learning_rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.flow.parameters(), lr=self.rate, betas=BETAS, fused=self.fused)

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


def appearance_codes(painter: PaintModule, data: PaintingData) -> Tensor:
    """Return the appearance codes of the blobs of all images."""

    def encode(*batch: Tensor) -> Tensor:
        images, *ellipses = (tensor.to(painter.device) for tensor in batch)
        return painter.encoder.codes(to_float(images), layout_from_ellipses(*ellipses)).cpu()

    return in_batches(encode, data.images, *data.ellipses.tensors()[:4])


def layout_training(
    painter: PaintModule, codes: Tensor, data: PaintingData, training: Training, seed: int
) -> tuple[LayoutModule, Callable[[int], Batch]]:
    """Return the training of the layout flow on the layouts of the training images, and its batches."""
    flow = cast(LayoutFlow, painter.model.layout_network)
    ellipses = data.ellipses.tensors()
    fitted = [tensor[: min(data.trained, MAX_FITTED)] for tensor in (codes, *ellipses)]
    flow.fit(_layouts(painter, *fitted[:-1]), fitted[-1])
    trained = [tensor[: data.trained] for tensor in (codes, *ellipses)]
    w = in_batches(lambda *batch: flow.project(_layouts(painter, *batch[:-1]), batch[-1]), *trained)
    module = LayoutModule(flow, training, seed)
    module.depends_on(w=checksum(w))
    return module, sample_batches((w,), data.trained, training, seed)


@torch.no_grad()
def _layouts(painter: PaintModule, codes: Tensor, *ellipses: Tensor) -> BlobLayout:
    return with_appearance(layout_from_ellipses(*ellipses), *painter.encoder.appearance(codes))
