"""From changed blobs to the picture that is judged: rendered anew, or only the change laid over the photo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.batching import in_batches
from blobex.optim.networks import Networks

FAINT, SOLID = 0.05, 0.5  # coverage up to which the photo stays as it is, and from which the change shows in full


@dataclass(frozen=True)
class Photos:
    """N photos, what the generator makes of their layouts, and where in them it paints what."""

    images: Tensor  # N,3,H,W in [-1,1]
    rendered: Tensor  # N,3,H,W
    scores: Tensor  # N,K+1,H,W
    appearance: Tensor  # N,K+1,L: features and styles


@dataclass(frozen=True)
class Composer:
    """Pictures of changed layouts. Without photos they are rendered anew.

    With photos x of layouts b the picture of a layout b' is x + M (G(b') - G(b) - L (x - G(b))). M covers what the
    changed blobs paint before or after: where it is 0 the photo's pixels keep their bits. L is how much of a pixel no
    longer shows what it did. The inversion's error x - G(b) is made good by the photo, but it belongs to what is seen
    there, and goes with it: an object that is taken out leaves no ghost.
    """

    networks: Networks
    form: VectorForm
    photos: Photos | None

    @classmethod
    def over_queries(cls, images: Tensor, start: BlobLayout, networks: Networks, rows: int) -> Composer:
        """For photos (N,3,H,W) of layouts `start`, of which `rows` are rendered at a time."""
        form = VectorForm.of(start)

        @torch.no_grad()
        def known(vector: Tensor) -> dict[str, Tensor]:
            layout = form.unflatten(vector)
            return {
                "rendered": networks.render(layout),
                "scores": networks.scores(layout),
                "appearance": _appearance(layout),
            }

        return cls(networks, form, Photos(images, **in_batches(known, rows, form.flatten(start))))

    def compose(self, vector: Tensor, image_index: Tensor, blobs: Tensor) -> Tensor:
        """(R,3,H,W) of vectors (R,D) about photos `image_index` (R,), in which `blobs` (R,K+1) bool may differ."""
        layout = self.form.unflatten(vector)
        rendered = self.networks.render(layout)
        if self.photos is None:
            return rendered
        photo, before = self.photos.images[image_index], self.photos.rendered[image_index]
        with torch.no_grad():
            scores, after = self.photos.scores[image_index], self.networks.scores(layout)
            mask = coverage(scores, after, blobs)
            gone = lost(scores, after, self.photos.appearance[image_index], _appearance(layout))
        change = mask * (rendered - before - gone * (photo - before))
        return torch.where(mask > 0, (photo + change).clamp(-1, 1), photo)


def coverage(before: Tensor, after: Tensor, blobs: Tensor) -> Tensor:
    """(N,1,H,W) from 0 to 1: how much of each pixel `blobs` (N,K+1) paint in either score map (N,K+1,H,W).

    >>> scores = torch.tensor([0.6, 0.4])[None, :, None, None]  # the blob paints 40% of the only pixel
    >>> round(coverage(scores, scores, torch.tensor([[False, True]])).item(), 4)  # of the way from FAINT to SOLID
    0.7778
    """
    share = torch.where(blobs[:, :, None, None], torch.maximum(before, after), 0).sum(1, keepdim=True)
    return ((share - FAINT) / (SOLID - FAINT)).clamp(0, 1)


def lost(before: Tensor, after: Tensor, looks_before: Tensor, looks_after: Tensor) -> Tensor:
    """(N,1,H,W) from 0 to 1: how much of each pixel no longer shows what it did, by scores (N,K+1,H,W) and appearance.

    A blob of appearance l (N,K+1,L) that are l' now shows 1 - |l' - l| / |l| of what it showed, or nothing of it.

    >>> before = torch.tensor([0.6, 0.4])[None, :, None, None]
    >>> after = torch.tensor([1.0, 0.0])[None, :, None, None]  # the blob is gone: the background is as it was
    >>> appearance = torch.ones(1, 2, 4)
    >>> [round(lost(before, after, appearance, factor * appearance).item(), 4) for factor in (1.0, 1.5, 3.0)]
    [0.4, 0.7, 1.0]
    """
    length = torch.linalg.vector_norm(looks_before, dim=2).clamp(min=torch.finfo(looks_before.dtype).tiny)
    kept = (1 - torch.linalg.vector_norm(looks_after - looks_before, dim=2) / length).clamp(min=0)
    still = torch.minimum(before, after) * kept[:, :, None, None].to(before.dtype)
    return (before - still).sum(1, keepdim=True)


def _appearance(layout: BlobLayout) -> Tensor:
    """(N,K+1,L)."""
    return torch.cat([layout.features, layout.spatial_style], dim=2)
