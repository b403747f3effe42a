"""Training of the painter: regression of images from the blobs of their segments.

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
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.networks.blobgan import BlobGAN
from blobex.networks.segment_encoder import SegmentEncoder, build_segment_encoder
from blobex.training.encoder import Perceptual
from blobex.training.step_module import Batch, StepModule, in_batches

BETAS = (0.5, 0.99)
ENCODER_SHARE = 0.2  # learning rate of the encoder relative to that of the generator
SAMPLES = 16


class PaintModule(StepModule):
    """Trains generator and segment encoder on batches of `PaintingData`."""

    def __init__(
        self, params: BlobganPretrain, network: Network, size: ImageSize, perceptual: Perceptual | None, seed: int
    ) -> None:
        options = {"network": dataclasses.asdict(network), "setup": dataclasses.asdict(size)}
        unrelated = ("training", "layout", "examples")
        options |= {key: value for key, value in dataclasses.asdict(params).items() if key not in unrelated}
        super().__init__(params.training, seed, options)
        self.params = params
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = BlobGAN(network, size.height, size.aspect_ratio)
            self.encoder = build_segment_encoder(self.model)
        self._frozen = [perceptual]  # in a list, so that it is not registered as a submodule
        self.to(memory_format=torch.channels_last)

    @property
    def perceptual(self) -> Perceptual | None:
        return self._frozen[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        rate = self.params.training.learning_rate
        groups = [
            {"params": self.model.generator.parameters(), "lr": rate},
            {"params": self.encoder.parameters(), "lr": rate * ENCODER_SHARE},
        ]
        return torch.optim.Adam(groups, betas=BETAS, eps=1e-6, fused=self.fused)

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            total, parts = painting_loss(self.model, self.encoder, self.perceptual, self.params, chunk, random)
            self.record(**parts)
            return total

        self.descend(self.optimizers(), loss, batch)

    @torch.no_grad()
    def render(self, layout: BlobLayout, codes: Tensor) -> Tensor:
        """Render images (N,3,H,W), clamped to [-1,1], of ellipses with appearance codes."""
        return self.model.render(with_appearance(layout, *self.encoder.appearance(codes))).clamp(-1, 1)


def painting_loss(
    model: BlobGAN,
    encoder: SegmentEncoder,
    perceptual: Perceptual | None,
    params: BlobganPretrain,
    batch: Batch,
    random: torch.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss between images and their renderings from blobs, and its distances for the record.

    `batch` is that of `PaintingData.batch`. The first rows insert their pasted object into the image that does not show
    it, the next ones remove it, the next ones render it as it is; the rest are images as they are.
    """
    images, shown, moved = (to_float(tensor) for tensor in batch[:3])
    mask, blobs = batch[3:5]
    own, pasted = layout_from_ellipses(*batch[5:9]), layout_from_ellipses(*batch[9:13])
    inserted, removed, kept = _tasks(blobs.any(1), params)
    layout = _where(inserted | removed | kept, pasted, own)
    codes = encoder.codes(_rows(removed | kept, shown, images), layout)
    count = int(len(images) * params.pasted.inserted)
    if count:
        alone = only_blobs(layout[:count], blobs[:count])
        copied = F.pad(blobs[:count], (1, 0))[..., None] & inserted[:count, None, None]
        codes = torch.cat([torch.where(copied, encoder.codes(moved[:count], alone), codes[:count]), codes[count:]])
    noise = torch.randn(codes.shape, generator=random, device=random.device)
    layout = only_blobs(layout, ~(blobs & removed[:, None]))
    layout = with_appearance(layout, *encoder.appearance(codes + params.code_noise * noise))
    painted = model.render(layout, model.generator.random_noise(len(images), random))
    target = _rows(inserted | kept, shown, images)
    weight = 1 + params.pasted.weight * _rows(removed | inserted, mask, torch.zeros_like(mask)).to(images.dtype)
    parts = {"l1": F.l1_loss(painted, target), "pixels": pixel_loss(painted, target, weight, params)}
    total = params.l1 * parts["pixels"]
    if perceptual is not None and params.perceptual:
        with torch.no_grad():
            embedded = perceptual.embed(target)
        parts["perceptual"] = perceptual.distance_to(embedded, painted).mean()
        total = total + params.perceptual * parts["perceptual"]
    return total, parts


def pixel_loss(painted: Tensor, target: Tensor, weight: Tensor, params: BlobganPretrain) -> Tensor:
    """Return the weighted mean absolute difference over scales, each half the size of the one before, plus that of
    the differences between neighbouring pixels, which keeps edges sharp. Weights are (N,1,H,W).
    """
    error = (painted - target) * weight
    across, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    total = params.differences * (across + down) / 2
    for scale in range(params.scales):
        total = total + error.abs().mean() / params.scales
        if scale + 1 < params.scales:
            error = F.avg_pool2d(error, 2)
    return total


def _tasks(pasted: Tensor, params: BlobganPretrain) -> tuple[Tensor, Tensor, Tensor]:
    """Return which rows insert, remove and keep their pasted object, bool (N,) each."""
    shares = params.pasted
    ends = [int(len(pasted) * share) for share in (shares.inserted, shares.inserted + shares.removed)]
    ends.append(int(len(pasted) * (shares.inserted + shares.removed + shares.kept)))
    place = torch.arange(len(pasted), device=pasted.device)
    first, second, third = (
        pasted & (place >= start) & (place < end) for start, end in zip([0, *ends[:2]], ends, strict=True)
    )
    return first, second, third


def only_blobs(layout: BlobLayout, blobs: Tensor) -> BlobLayout:
    """Return the layout with all blobs absent but `blobs`, bool (N,K)."""
    return layout.replace({"sizes": torch.where(F.pad(blobs, (1, 0), value=True), layout.sizes, ABSENT)})


def _rows(chosen: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the rows of `first` where `chosen`, bool (N,), is true, else those of `second`."""
    return torch.where(chosen.view(-1, *[1] * (first.ndim - 1)), first, second)


def _where(chosen: Tensor, first: BlobLayout, second: BlobLayout) -> BlobLayout:
    return BlobLayout(**{key: _rows(chosen, tensor, getattr(second, key)) for key, tensor in first.items()})


def painting_measures(painter: PaintModule, held_out: Batch) -> dict[str, float]:
    """Return mean absolute differences of pixels in [-1,1]: of images to their renderings (`l1`); of images to
    renderings without the pasted object, in its region (`removal_l1`), beside that of the object itself
    (`removal_l1_object`); and of images with the object to renderings with the object inserted (`insertion_l1`).
    """

    def compare(*batch: Tensor) -> Tensor:
        images, shown, moved, mask, blobs, *ellipses = (tensor.to(painter.device) for tensor in batch)
        image, with_object, source = (to_float(tensor) for tensor in (images, shown, moved))
        own, pasted = layout_from_ellipses(*ellipses[:4]), layout_from_ellipses(*ellipses[4:])
        encoder = painter.encoder
        removed = only_blobs(pasted, ~blobs)
        inside = mask.to(image.dtype)
        copied = encoder.codes(source, only_blobs(pasted, blobs))
        inserted = torch.where(F.pad(blobs, (1, 0))[..., None], copied, encoder.codes(image, pasted))
        renderings = (
            (painter.render(own, encoder.codes(image, own)), image, torch.ones_like(inside)),
            (painter.render(removed, encoder.codes(with_object, pasted)), image, inside),
            (with_object, image, inside),
            (painter.render(pasted, inserted), with_object, inside),
        )
        sums = [((one - other).abs() * region).mean(1).flatten(1).sum(1) for one, other, region in renderings]
        counts = [region.flatten(1).sum(1) for _, _, region in renderings]
        return torch.stack([*sums, *counts], dim=1).cpu()

    totals = in_batches(compare, *held_out).double().sum(0)
    names = ("l1", "removal_l1", "removal_l1_object", "insertion_l1")
    return {name: float(totals[place] / totals[place + len(names)]) for place, name in enumerate(names)}


@torch.no_grad()
def painting_samples(painter: PaintModule, held_out: Batch) -> Tensor:
    """Return images, their renderings, images with a pasted object, renderings without it, and random renderings."""
    images, shown, _, _, blobs, *ellipses = (tensor[: SAMPLES // 2].to(painter.device) for tensor in held_out)
    own, pasted = layout_from_ellipses(*ellipses[:4]), layout_from_ellipses(*ellipses[4:])
    image, with_object = to_float(images), to_float(shown)
    painted = painter.render(own, painter.encoder.codes(image, own))
    without = painter.render(only_blobs(pasted, ~blobs), painter.encoder.codes(with_object, pasted))
    z = torch.randn(SAMPLES, painter.model.z_dim, generator=torch.Generator().manual_seed(0)).to(painter.device)
    return torch.cat([image, painted, with_object, without, painter.model.render(painter.model.sample(z))])
