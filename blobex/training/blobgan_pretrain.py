"""Pretraining of a BlobGAN: regression of images from the blobs of their segments ("painting"), then its layout flow.

A regression learns much faster than a GAN, and it ties every blob to one kind of object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.training import BlobganPretrain, Network, Training
from blobex.datasets.datamodule import checksum
from blobex.datasets.images import to_float
from blobex.layout.assign import layout_from_ellipses, with_appearance
from blobex.layout.blobs import BlobLayout
from blobex.networks.blobgan import BlobGAN
from blobex.networks.layout_network import LayoutFlow
from blobex.networks.ops import pixel_norm
from blobex.networks.segment_encoder import SegmentEncoder, StoredExamples, build_segment_encoder
from blobex.training.encoder import Perceptual
from blobex.training.step_module import Batch, StepModule, in_batches, sample_batches

PAINT_BETAS, LAYOUT_BETAS = (0.5, 0.99), (0.9, 0.99)
ENCODER_SHARE = 0.2  # learning rate of the encoder relative to that of the generator
HELD_OUT = 512  # images that are only measured, or half of them if there are fewer
MAX_FITTED = 20_000  # layouts of the principal component analysis, which are in memory at once
SAMPLES = 16


class PaintModule(StepModule):
    """Trains generator and segment encoder. Batches: images uint8 (N,3,H,W); xs, ys, covs, sizes of `BlobEllipses`."""

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
        return torch.optim.Adam(groups, betas=PAINT_BETAS, eps=1e-6)

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


class LayoutModule(StepModule):
    """Trains a layout flow by flow matching (Lipman et al., ICLR 2023, equation 14). Batches: w (N,z_dim).

    Times are logit-normal, so most are near 1/2 (Esser et al., ICML 2024, section 3.1).
    """

    def __init__(self, flow: LayoutFlow, training: Training, seed: int) -> None:
        super().__init__(training, seed, {"z_dim": flow.network.z_dim})
        self.flow, self.rate = flow, training.learning_rate

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.flow.parameters(), lr=self.rate, betas=LAYOUT_BETAS)

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


@dataclass(frozen=True)
class PretrainingData:
    """Images with the ellipses of their blobs; the last ones are held out."""

    images: Tensor  # N,3,H,W uint8
    ellipses: Batch  # tensors of `BlobEllipses`

    @property
    def trained(self) -> int:
        """Number of images that are trained on."""
        return max(len(self.images) - HELD_OUT, (len(self.images) + 1) // 2)

    @property
    def painting(self) -> Batch:
        """Tensors of the training of a `PaintModule`."""
        return self.images, *self.ellipses[:4]

    @property
    def held_out(self) -> Batch:
        return tuple(tensor[self.trained :] for tensor in self.painting)

    def examples(self, codes: Tensor, count: int, seed: int) -> StoredExamples:
        """Return at most `count` random training images as stored examples."""
        chosen = torch.randperm(self.trained, generator=torch.Generator().manual_seed(seed))[:count]
        return StoredExamples.of(codes[chosen], *(tensor[chosen] for tensor in self.ellipses))


def appearance_codes(painter: PaintModule, data: PretrainingData) -> Tensor:
    """Return the appearance codes of the blobs of all images."""

    def encode(*batch: Tensor) -> Tensor:
        images, *ellipses = (tensor.to(painter.device) for tensor in batch)
        return painter.encoder.codes(to_float(images), layout_from_ellipses(*ellipses)).cpu()

    return in_batches(encode, *data.painting)


def layout_training(
    painter: PaintModule, codes: Tensor, data: PretrainingData, training: Training, seed: int
) -> tuple[LayoutModule, Callable[[int], Batch]]:
    """Return the training of the layout flow on the layouts of the training images, and its batches."""
    flow = cast(LayoutFlow, painter.model.layout_network)
    fitted = [tensor[: min(data.trained, MAX_FITTED)] for tensor in (codes, *data.ellipses)]
    flow.fit(_layouts(painter, *fitted[:-1]), fitted[-1])
    trained = [tensor[: data.trained] for tensor in (codes, *data.ellipses)]
    w = in_batches(lambda *batch: flow.project(_layouts(painter, *batch[:-1]), batch[-1]), *trained)
    module = LayoutModule(flow, training, seed)
    module.depends_on(w=checksum(w))
    return module, sample_batches((w,), data.trained, training, seed)


@torch.no_grad()
def _layouts(painter: PaintModule, codes: Tensor, *ellipses: Tensor) -> BlobLayout:
    return with_appearance(layout_from_ellipses(*ellipses), *painter.encoder.appearance(codes))


def painting_measures(painter: PaintModule, held_out: Batch, distance: str) -> dict[str, float]:
    """Return the mean distances of images to their paintings; `distance` names the perceptual one."""

    def compare(*batch: Tensor) -> Tensor:
        images, *ellipses = (tensor.to(painter.device) for tensor in batch)
        original = to_float(images)
        painted = painter.paint(original, layout_from_ellipses(*ellipses))[0].clamp(-1, 1)
        perceptual = painter.perceptual.distance_to(painter.perceptual.embed(original), painted)
        return torch.stack([perceptual, (painted - original).abs().flatten(1).mean(1)], dim=1).cpu()

    perceptual, l1 = in_batches(compare, *held_out).mean(0).tolist()
    return {distance: perceptual, "l1": l1}


@torch.no_grad()
def painting_samples(painter: PaintModule, held_out: Batch) -> Tensor:
    """Return images, their paintings, and as many images of random layouts."""
    images, *ellipses = (tensor[: SAMPLES // 2].to(painter.device) for tensor in held_out)
    painted = painter.paint(to_float(images), layout_from_ellipses(*ellipses))[0]
    z = torch.randn(SAMPLES, painter.model.z_dim, generator=torch.Generator().manual_seed(0)).to(painter.device)
    return torch.cat([to_float(images), painted, painter.model.render(painter.model.sample(z))])
