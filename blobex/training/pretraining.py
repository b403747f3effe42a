"""Pretraining of a BlobGAN around its two trainings: data, training of the layout flow, measures and samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from blobex.config.training import Training
from blobex.datasets.datamodule import checksum
from blobex.datasets.images import to_float
from blobex.layout.assign import BlobEllipses, layout_from_ellipses, with_appearance
from blobex.layout.blobs import BlobLayout
from blobex.networks.layout_flow import LayoutFlow
from blobex.networks.segment_encoder import StoredExamples
from blobex.training.batches import in_batches, sample_batches
from blobex.training.blobgan_pretrain import PaintModule
from blobex.training.layout_flow import LayoutModule
from blobex.training.step_module import Batch

HELD_OUT = 512  # images that are only measured, or half of them if there are fewer
MAX_FITTED = 20_000  # layouts of the principal component analysis, which are in memory at once
SAMPLES = 16


@dataclass(frozen=True)
class PretrainingData:
    """Images with the ellipses of their blobs; the last ones are held out."""

    images: Tensor  # N,3,H,W uint8
    ellipses: Batch  # tensors of `BlobEllipses`

    @classmethod
    def of(cls, images: Tensor, ellipses: BlobEllipses) -> PretrainingData:
        return cls(images, ellipses.tensors())

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
