"""Training data of the painter: images, their blobs, and the same images with an object of another image pasted in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blobex.config.training import Training
from blobex.datasets.datamodule import batch_indices, checksum
from blobex.layout.assign import BlobAnchors, BlobEllipses, assign_segments
from blobex.layout.paste import LabelMaps, Paste, paste
from blobex.layout.segments import segment_from_mask
from blobex.layout.splat import Canvas
from blobex.networks.segment_encoder import StoredExamples
from blobex.training.step_module import CPU, Batch, fits

HELD_OUT = 512  # images that are only measured, or half of them if there are fewer
CANDIDATES = 8  # images among which the one with the most similar colours gives the object


@dataclass(frozen=True)
class PastedObjects:
    """For each of N images an object of another image; rows without an object have an empty mask and no blobs."""

    source: Tensor  # N int64: image of the object
    shift: Tensor  # N,2 int64: pixels down and to the right from its place there
    mask: Tensor  # N,H*W/8 uint8: pixels of the object in the image, packed
    blobs: Tensor  # N,K bool: blobs of the object
    ellipses: BlobEllipses  # of the image with the object

    def composite(self, images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images `numbers` (n,) with the object, its mask, and the object's own images moved by the shift.

        `images` (N,3,H,W) uint8 are all images; the results are (n,3,H,W), (n,1,H,W) bool and (n,3,H,W).
        """
        height, width = images.shape[2:]
        places = torch.arange(7, -1, -1, dtype=torch.uint8, device=images.device)  # as numpy packs: first the highest
        bits = (self.mask[numbers][:, :, None] >> places) & 1
        mask = bits.flatten(1)[:, : height * width].bool().view(-1, 1, height, width)
        moved = shift_images(images[self.source[numbers]], self.shift[numbers])
        return torch.where(mask, moved, images[numbers]), mask, moved

    def to(self, device: torch.device) -> PastedObjects:
        """Return the objects on a device."""
        source, shift, mask, blobs = (each.to(device) for each in (self.source, self.shift, self.mask, self.blobs))
        return PastedObjects(source, shift, mask, blobs, self.ellipses.to(device))


def shift_images(images: Tensor, shifts: Tensor) -> Tensor:
    """Return images (N,3,H,W), each moved by whole pixels (N,2) down and to the right; the border is repeated.

    >>> shift_images(torch.arange(3).expand(1, 1, 1, 3), torch.tensor([[0, 1]])).tolist()
    [[[[0, 0, 1]]]]
    """
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) - shifts[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - shifts[:, 1:]).clamp(0, width - 1)
    down = images.gather(2, rows[:, None, :, None].expand_as(images))
    return down.gather(3, columns[:, None, None, :].expand_as(images))


@dataclass(frozen=True)
class BlobSlots:
    """What assigns segments to blobs."""

    counts: Mapping[str, int]  # blobs of each group of segments, from back to front
    anchors: BlobAnchors
    canvas: Canvas


@dataclass(frozen=True)
class PasteChoice:
    """Object chosen for an image."""

    source: int  # image of the object
    paste: Paste | None  # None: none fits


def choose_pastes(images: Tensor, maps: Sequence[LabelMaps], first: int, seed: int) -> list[PasteChoice]:
    """Choose for each of the images first, first + 1, ... with label maps `maps` an object of another one of them.

    `images` (N,3,H,W) uint8 are all images. The object is of the image with the most similar mean colour among
    CANDIDATES random ones: an object in daylight looks wrong at night.
    """
    colours = images[first : first + len(maps)].float().mean((2, 3)).numpy()
    choices = []
    for place, target in enumerate(maps):
        random = np.random.default_rng([seed, first + place])
        others = random.integers(len(maps), size=CANDIDATES)
        distance = ((colours[others] - colours[place]) ** 2).sum(1) + np.where(others == place, np.inf, 0)
        source = int(others[distance.argmin()])
        pasted = None if source == place else paste(target, maps[source], random)
        choices.append(PasteChoice(first + source, pasted))
    return choices


def paste_objects(choices: Sequence[PasteChoice], size: tuple[int, int], slots: BlobSlots) -> PastedObjects:
    """Assign the segments of N images of `size` (H,W) with their pasted objects to blobs."""
    segments = [[segment_from_mask(*mask) for mask in row.paste.masks] if row.paste else [] for row in choices]
    ellipses = assign_segments(segments, slots.counts, slots.anchors, slots.canvas)
    blobs = torch.zeros_like(ellipses.present)
    for number, row in enumerate(choices):
        if row.paste:
            blobs[number] = torch.isin(ellipses.segment[number], torch.tensor(sorted(row.paste.pasted)))
    usable = blobs.any(1).tolist()
    empty = np.zeros(size, dtype=bool)
    masks = [row.paste.mask if row.paste and used else empty for row, used in zip(choices, usable, strict=True)]
    return PastedObjects(
        source=torch.tensor([row.source for row in choices]),
        shift=torch.tensor([row.paste.shift if row.paste else (0, 0) for row in choices]),
        mask=torch.from_numpy(np.stack([np.packbits(mask) for mask in masks])),
        blobs=blobs,
        ellipses=ellipses,
    )


@dataclass(frozen=True)
class PaintingData:
    """Images with the ellipses of their blobs, and objects to paste into them; the last images are held out."""

    images: Tensor  # N,3,H,W uint8
    ellipses: BlobEllipses
    pasted: PastedObjects

    @property
    def trained(self) -> int:
        """Number of images that are trained on."""
        return max(len(self.images) - HELD_OUT, (len(self.images) + 1) // 2)

    def batch(self, numbers: Tensor) -> Batch:
        """Return images `numbers` (n,), the same with the pasted object, the object's own image moved to its place,
        mask and blobs of the object, and the ellipses (xs, ys, covs, sizes) without and with it.
        """
        composite, mask, moved = self.pasted.composite(self.images, numbers)
        blobs = self.pasted.blobs[numbers]
        ellipses = [*self.ellipses.tensors()[:4], *self.pasted.ellipses.tensors()[:4]]
        return self.images[numbers], composite, moved, mask, blobs, *(tensor[numbers] for tensor in ellipses)

    def batches(self, training: Training, seed: int, device: torch.device = CPU) -> Callable[[int], Batch]:
        """Return the function from a training step to its batch, made on a GPU if all images fit there."""
        size, kept = training.batch_size * training.accumulate, self
        if fits((self.images, self.pasted.mask), device):
            kept = PaintingData(self.images.to(device), self.ellipses.to(device), self.pasted.to(device))
        return lambda step: kept.batch(batch_indices(step, self.trained, size, seed).to(kept.images.device))

    @property
    def held_out(self) -> Batch:
        """All entries of `batch` of the held-out images."""
        return self.batch(torch.arange(self.trained, len(self.images)))

    def checksum(self) -> int:
        """Return a checksum of everything that is trained on."""
        pasted = self.pasted
        tensors = (*self.ellipses.tensors(), *pasted.ellipses.tensors(), pasted.source, pasted.shift, pasted.mask)
        return checksum(self.images, *tensors, pasted.blobs)

    def examples(self, codes: Tensor, count: int, seed: int) -> StoredExamples:
        """Return at most `count` random training images as stored examples."""
        chosen = torch.randperm(self.trained, generator=torch.Generator().manual_seed(seed))[:count]
        return StoredExamples.of(codes[chosen], *(tensor[chosen] for tensor in self.ellipses.tensors()))
