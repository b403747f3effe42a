"""First stage of BlobGAN training: regression of images from the blobs of their segments ("painting").

A regression learns much faster than a GAN, and it ties every blob to one kind of object.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.training import BlobganPretrain, Network
from blobex.datasets.images import to_float
from blobex.layout.assign import layout_from_ellipses, with_appearance
from blobex.layout.blobs import BlobLayout
from blobex.networks.blobgan import BlobGAN
from blobex.networks.segment_encoder import SegmentEncoder, build_segment_encoder
from blobex.training.encoder import Perceptual
from blobex.training.step_module import Batch, StepModule

BETAS = (0.5, 0.99)
ENCODER_SHARE = 0.2  # learning rate of the encoder relative to that of the generator


class PaintModule(StepModule):
    """Trains generator and segment encoder.

    A batch holds images uint8 (N,3,H,W) and the xs, ys, covs and sizes of their `BlobEllipses`.
    """

    def __init__(
        self, params: BlobganPretrain, network: Network, size: ImageSize, perceptual: Perceptual, seed: int
    ) -> None:
        options = {"network": dataclasses.asdict(network), "setup": dataclasses.asdict(size)}
        unrelated = ("training", "layout", "examples")
        options |= {key: value for key, value in dataclasses.asdict(params).items() if key not in unrelated}
        super().__init__(params.training, seed, options)
        self.params = params
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = BlobGAN(network, size.height, size.aspect_ratio)
            self.encoder = build_segment_encoder(self.model, params.code_dim)
        self._frozen = [perceptual]  # in a list, so that it is not registered as a submodule
        self.to(memory_format=torch.channels_last)

    @property
    def perceptual(self) -> Perceptual:
        return self._frozen[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rate = self.params.training.learning_rate
        groups = [
            {"params": self.model.generator.parameters(), "lr": rate},
            {"params": self.encoder.parameters(), "lr": rate * ENCODER_SHARE},
        ]
        return torch.optim.Adam(groups, betas=BETAS, eps=1e-6)

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            total, parts = painting_loss(self.model, self.encoder, self.perceptual, self.params, chunk, random)
            self.record(**parts)
            return total

        self.descend(self.optimizers(), loss, batch)

    @torch.no_grad()
    def paint(self, images: Tensor, layout: BlobLayout) -> tuple[Tensor, BlobLayout]:
        """Render images (N,3,H,W) in [-1,1] from their blobs; return the rendering and the blobs with appearance."""
        layout = with_appearance(layout, *self.encoder.appearance(self.encoder.codes(images, layout)))
        return self.model.render(layout), layout


def painting_loss(
    model: BlobGAN,
    encoder: SegmentEncoder,
    perceptual: Perceptual,
    params: BlobganPretrain,
    batch: Batch,
    random: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss between images and their renderings from blobs, and its two distances for the record."""
    images, layout = to_float(batch[0]), layout_from_ellipses(*batch[1:])
    codes = encoder.codes(images, layout)
    noise = torch.randn(codes.shape, generator=random, device=random.device)
    layout = with_appearance(layout, *encoder.appearance(codes + params.code_noise * noise))
    painted = model.render(layout, model.generator.random_noise(len(images), random))
    with torch.no_grad():
        target = perceptual.embed(images)
    parts = {"l1": F.l1_loss(painted, images), "perceptual": perceptual.distance_to(target, painted).mean()}
    return params.l1 * parts["l1"] + params.perceptual * parts["perceptual"], parts
