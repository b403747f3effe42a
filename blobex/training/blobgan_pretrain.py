"""A BlobGAN's first lesson, from segments: to paint pictures by their blobs.

It is a regression, which learns much faster than a GAN, and it ties every blob to one kind of object.
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
from blobex.training.fit import Batch, StepModule

BETAS = (0.5, 0.99)
ENCODER_SHARE = 0.2  # of the generator's learning rate


class PaintModule(StepModule):
    """Train generator and segment encoder; a batch holds images uint8 (N,3,H,W), then xs, ys, covs, sizes of blobs."""

    def __init__(
        self, params: BlobganPretrain, network: Network, setup: ImageSize, perceptual: Perceptual, seed: int
    ) -> None:
        options = {"network": dataclasses.asdict(network), "setup": dataclasses.asdict(setup)}
        super().__init__(params.training, seed, {**options, **weights_of(params)})
        self.params = params
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = BlobGAN(network, setup.height, setup.aspect_ratio)
            self.encoder = build_segment_encoder(self.model, params.code_dim)
        self.judges = [perceptual]  # in a list, so that it is no submodule
        self.to(memory_format=torch.channels_last)

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
            total, parts = painting_loss(self.model, self.encoder, self.judges[0], self.params, chunk, random)
            self.record(**parts)
            return total

        self.descend(self.optimizers(), loss, batch)

    @torch.no_grad()
    def paint(self, images: Tensor, places: BlobLayout) -> tuple[Tensor, BlobLayout]:
        """What the generator makes of pictures (N,3,H,W) in [-1,1] by their blobs, and the blobs."""
        layout = with_appearance(places, *self.encoder.appearance(self.encoder.codes(images, places)))
        return self.model.render(layout), layout


def painting_loss(
    model: BlobGAN,
    encoder: SegmentEncoder,
    perceptual: Perceptual,
    params: BlobganPretrain,
    batch: Batch,
    random: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """How far pictures are from what the generator makes of their blobs, and the two distances that it is made of."""
    images, places = to_float(batch[0]), layout_from_ellipses(*batch[1:])
    codes = encoder.codes(images, places)
    noise = torch.randn(codes.shape, generator=random, device=random.device)
    layout = with_appearance(places, *encoder.appearance(codes + params.code_noise * noise))
    painted = model.render(layout, model.generator.random_noise(len(images), random))
    with torch.no_grad():
        wanted = perceptual.embed(images)
    parts = {"l1": F.l1_loss(painted, images), "perceptual": perceptual.distance_to(wanted, painted).mean()}
    return params.l1 * parts["l1"] + params.perceptual * parts["perceptual"], parts


def weights_of(params: BlobganPretrain) -> dict[str, object]:
    """What a checkpoint must agree with."""
    return {
        key: value for key, value in dataclasses.asdict(params).items() if key not in ("training", "layout", "examples")
    }
