"""A BlobGAN's first lessons, from segments: to paint pictures by their blobs, and to lay blobs out as in pictures.

Both are regressions, which learn much faster than a GAN, and they tie every blob to one kind of object.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.config.data import Setup
from blobex.config.training import BlobganPretrain, Network
from blobex.datasets.images import to_float
from blobex.layout.layout import BlobLayout
from blobex.networks.blobgan import BlobGAN
from blobex.networks.layout_network import LEARNING_RATE_MULTIPLIER
from blobex.networks.segment_encoder import SegmentEncoder, build_segment_encoder
from blobex.segments.place import looking, placed
from blobex.training.encoder import Perceptual
from blobex.training.fit import Batch, StepModule

BETAS = (0.5, 0.99)
ENCODER_SHARE = 0.2  # of the generator's learning rate
HIDDEN = 1024  # of the network that reads z off a layout
# What a layout network may be off by, so that errors of all keys weigh alike: pixels of a picture 64 high, and logits.
PIXEL, ASPECT, DIRECTION, LOOK = 1 / 64, 0.5, 0.25, 0.5
SIZE, SIZE_SHARE = 0.3, 0.1  # of sizes: so much, and this share of the size


class PaintModule(StepModule):
    """Generator and segment encoder. Batches: pictures uint8 (N,3,H,W), then xs, ys, covs and sizes of `Places`."""

    def __init__(
        self, params: BlobganPretrain, network: Network, setup: Setup, perceptual: Perceptual, seed: int
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
        layout = looking(places, *self.encoder.looks(self.encoder.codes(images, places)))
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
    images, places = to_float(batch[0]), placed(*batch[1:])
    codes = encoder.codes(images, places)
    noise = torch.randn(codes.shape, generator=random, device=random.device)
    layout = looking(places, *encoder.looks(codes + params.code_noise * noise))
    painted = model.render(layout, model.generator.random_noise(len(images), random))
    with torch.no_grad():
        wanted = perceptual.embed(images)
    parts = {"l1": F.l1_loss(painted, images), "perceptual": perceptual.distance_to(wanted, painted).mean()}
    return params.l1 * parts["l1"] + params.perceptual * parts["perceptual"], parts


class LayoutModule(StepModule):
    """The layout network, as the decoder of a variational autoencoder (Kingma and Welling, ICLR 2014) of layouts.

    Batches: codes (N,K+1,code_dim), then xs, ys, covs, sizes and present of `Places`.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, params: BlobganPretrain, model: BlobGAN, encoder: SegmentEncoder, codes: Tensor, seed: int):
        super().__init__(params.layout, seed, weights_of(params))
        self.layout_network = model.layout_network
        self.rate, self.frozen = params.layout.learning_rate, [encoder]
        blobs, code_dim = codes.shape[1:]
        self.register_buffer("mean", codes.mean(0))
        self.register_buffer("scale", codes.std((0, 1)) + 1e-6)
        z_dim = self.layout_network.shape.z_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reader = nn.Sequential(
                *(nn.Linear((blobs - 1) * 7 + blobs * code_dim, HIDDEN), nn.LeakyReLU(0.2)),
                *(nn.Linear(HIDDEN, HIDDEN // 2), nn.LeakyReLU(0.2)),
                nn.Linear(HIDDEN // 2, 2 * z_dim),
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The layout network's weights are stored divided by its multiplier: its rate makes up for that."""
        groups = [
            {"params": self.reader.parameters(), "lr": self.rate},
            {"params": self.layout_network.parameters(), "lr": self.rate / LEARNING_RATE_MULTIPLIER},
        ]
        return torch.optim.Adam(groups, betas=(0.9, 0.99))

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            mean, log_variance = self.read(chunk)
            z = mean + torch.randn(mean.shape, generator=random, device=self.device) * (log_variance / 2).exp()
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
            error = self.error(chunk, self.layout_network(z)).mean()
            self.record(divergence=divergence, layout_error=error)
            return error + divergence

        self.descend(self.optimizers(), loss, batch)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of z (N,z_dim), given a layout."""
        codes, xs, ys, covs, sizes, _ = batch
        ux, uy = covs[..., 2:].unbind(-1)
        axes = torch.stack([ux.square() - uy.square(), 2 * ux * uy], dim=2)  # of doubled angle: an axis has no sign
        shape = torch.cat([covs[..., :2], axes], dim=2)
        places = torch.cat([xs[..., None] * 8, ys[..., None] * 8, shape / 2, sizes[..., None] / 4], dim=2)
        seen = torch.cat([places.flatten(1), ((codes - self.mean) / self.scale).flatten(1)], dim=1)
        mean, log_variance = self.reader(seen).chunk(2, dim=1)
        return mean, log_variance

    def error(self, batch: Batch, layout: BlobLayout) -> Tensor:
        """(N,): half the squared errors, each by what it may be; of absent blobs, only their size counts."""
        codes, xs, ys, covs, sizes, present = batch
        with torch.no_grad():
            features, styles = self.frozen[0].looks(codes)
        there = present.to(xs.dtype)
        everywhere = F.pad(there, (1, 0), value=1.0)
        place = ((layout.xs - xs) / PIXEL).square() + ((layout.ys - ys) / PIXEL).square()
        shape = ((layout.covs[..., :2] - covs[..., :2]) / ASPECT).square().sum(2)
        axes, found = covs[..., 2:], layout.covs[..., 2:]
        axes = torch.where((axes * found).sum(2, keepdim=True) < 0, -axes, axes)  # either sign of an axis is right
        shape = shape + ((found - axes) / DIRECTION).square().sum(2)
        size = ((layout.sizes[:, 1:] - sizes) / (SIZE + SIZE_SHARE * sizes.abs())).square()
        look = (layout.features - features).square().sum(2) + (layout.spatial_style - styles).square().sum(2)
        look = look / LOOK
        return 0.5 * (((place + shape) * there + size).sum(1) + (look * everywhere).sum(1))


def weights_of(params: BlobganPretrain) -> dict[str, object]:
    """What a checkpoint must agree with."""
    return {
        key: value for key, value in dataclasses.asdict(params).items() if key not in ("training", "layout", "examples")
    }
