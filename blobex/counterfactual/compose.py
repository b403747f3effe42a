"""Image of a changed layout: rendered, or only the change composed into the query."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.batching import in_batches
from blobex.optim.network_callables import Networks

WIDENED = 64  # an image's height / the pixels by which a changed region is widened
BLOCK = 4.0  # a block is trusted in full if this many times its known share is 1 or more
LARGEST_ERROR = 0.2  # of a pixel in [-1,1] that continues into the changed region
FAINT, SOLID = 0.05, 0.5  # coverage up to which the query stays as it is, and from which the change shows in full


@dataclass(frozen=True)
class QueryRenderings:
    """N queries and the renderings of their layouts."""

    queries: Tensor  # N,3,H,W in [-1,1]
    rendered: Tensor  # N,3,H,W
    scores: Tensor  # N,K+1,H,W: score maps
    appearance: Tensor  # N,K+1,L: features and styles


@dataclass(frozen=True)
class Composer:
    """Images of changed layouts. Without `base` they are rendered.

    With queries x of layouts b, the image of a changed layout b' is x + M (G(b') - G(b) - L (x - G(b) - E)). The
    coverage M is how much the changed blobs paint before or after; where it is 0 the query's pixels keep their bits.
    The lost content L is how much of a pixel no longer shows what it did. The inversion's error x - G(b) is part of
    what is seen there and disappears with it, so that a removed object leaves no ghost. Instead, the error E of the
    surroundings, x - G(b') where M is 0, continues smoothly, so that the change has no seam. M and L are widened.
    """

    networks: Networks
    form: VectorForm
    base: QueryRenderings | None = None

    @classmethod
    def over_queries(cls, queries: Tensor, layout: BlobLayout, networks: Networks, batch_size: int) -> Composer:
        """Return a composer of changes into queries (N,3,H,W) with inverted layouts `layout`."""
        form = VectorForm.of(layout)

        @torch.no_grad()
        def render(vector: Tensor) -> dict[str, Tensor]:
            layout = form.unflatten(vector)
            rendered, scores = networks.render(layout), networks.scores(layout)
            return {"rendered": rendered, "scores": scores, "appearance": _appearance(layout)}

        return cls(networks, form, QueryRenderings(queries, **in_batches(render, batch_size, form.flatten(layout))))

    def compose(self, vector: Tensor, image_index: Tensor, blobs: Tensor) -> Tensor:
        """Compute the images (R,3,H,W) of layout vectors (R,D) of the queries `image_index` (R,).

        Only the background and the blobs in `blobs`, bool (R,K+1), may differ from the query's layout.
        """
        layout = self.form.unflatten(vector)
        rendered = self.networks.render(layout)
        if self.base is None:
            return rendered
        query, before = self.base.queries[image_index], self.base.rendered[image_index]
        with torch.no_grad():
            scores, scores_after = self.base.scores[image_index], self.networks.scores(layout)
            mask = coverage(scores, scores_after, blobs)
            lost = lost_content(scores, scores_after, self.base.appearance[image_index], _appearance(layout))
            mask, lost = widened(mask), widened(lost)
            error = continued((query - rendered).clamp(-LARGEST_ERROR, LARGEST_ERROR), (1 - mask).to(query.dtype))
        change = mask * (rendered - before - lost * (query - before - error))
        return torch.where(mask > 0, (query + change).clamp(-1, 1), query)


def coverage(before: Tensor, after: Tensor, blobs: Tensor) -> Tensor:
    """Compute how much of each pixel, (N,1,H,W) in [0,1], `blobs` (N,K+1) paint in either score map (N,K+1,H,W).

    >>> scores = torch.tensor([0.6, 0.4])[None, :, None, None]  # the blob paints 40% of the only pixel
    >>> round(coverage(scores, scores, torch.tensor([[False, True]])).item(), 4)  # between FAINT and SOLID
    0.7778
    """
    share = torch.where(blobs[:, :, None, None], torch.maximum(before, after), 0).sum(1, keepdim=True)
    return ((share - FAINT) / (SOLID - FAINT)).clamp(0, 1)


def lost_content(before: Tensor, after: Tensor, appearance_before: Tensor, appearance_after: Tensor) -> Tensor:
    """Compute how much of each pixel, (N,1,H,W) in [0,1], no longer shows what it did.

    A blob whose appearance l becomes l' keeps 1 - |l' - l| / |l| of its content, at least none. Score maps are
    (N,K+1,H,W), appearances (N,K+1,L).

    >>> before = torch.tensor([0.6, 0.4])[None, :, None, None]
    >>> after = torch.tensor([1.0, 0.0])[None, :, None, None]  # the blob disappears, the background stays
    >>> appearance = torch.ones(1, 2, 4)
    >>> [round(lost_content(before, after, appearance, factor * appearance).item(), 4) for factor in (1.0, 1.5, 3.0)]
    [0.4, 0.7, 1.0]
    """
    length = torch.linalg.vector_norm(appearance_before, dim=2).clamp(min=torch.finfo(appearance_before.dtype).tiny)
    kept = (1 - torch.linalg.vector_norm(appearance_after - appearance_before, dim=2) / length).clamp(min=0)
    remaining = torch.minimum(before, after) * kept[:, :, None, None].to(before.dtype)
    return (before - remaining).sum(1, keepdim=True)


def widened(values: Tensor) -> Tensor:
    """Return the largest value (N,1,H,W) around each pixel, within H/64 pixels: score maps end before objects do.

    >>> widened(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).repeat(64, 1)[None, None])[0, 0, 0]
    tensor([0., 1., 1., 1., 0.])
    """
    reach = round(values.shape[2] / WIDENED)
    return F.max_pool2d(values, 2 * reach + 1, stride=1, padding=reach)


def continued(values: Tensor, known: Tensor) -> Tensor:
    """Continue values (N,C,H,W) smoothly from where they are known, weights (N,1,H,W) in [0,1], to everywhere.

    Weighted means over blocks of doubling size fill what finer blocks do not know ("pull-push", Gortler et al.,
    SIGGRAPH 1996, section 3.4).

    >>> values, known = torch.tensor([1.0, 9.0, 9.0, 1.0])[None, None, None], torch.tensor([1.0, 0.0, 0.0, 1.0])
    >>> continued(values, known[None, None, None])
    tensor([[[[1., 1., 1., 1.]]]])
    """
    pyramid = [(values * known, known)]
    while max(pyramid[-1][0].shape[2:]) > 1:
        weighted, weights = pyramid[-1]
        pyramid.append((F.avg_pool2d(weighted, 2, ceil_mode=True), F.avg_pool2d(weights, 2, ceil_mode=True)))
    weighted, weights = pyramid.pop()
    filled = weighted / weights.clamp(min=torch.finfo(weights.dtype).tiny)
    for weighted, weights in reversed(pyramid):
        share = (weights * BLOCK).clamp(max=1)
        own = weighted / weights.clamp(min=torch.finfo(weights.dtype).tiny)
        coarse = F.interpolate(filled, size=weighted.shape[2:], mode="bilinear", align_corners=False)
        filled = share * own + (1 - share) * coarse
    return filled


def _appearance(layout: BlobLayout) -> Tensor:
    return torch.cat([layout.features, layout.spatial_style], dim=2)
