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
NEAR = 20  # the same around a segment, beyond which its blob covers nothing before the change
BLOCK = 4.0  # a block is trusted in full if this many times its known share is 1 or more
LARGEST_ERROR = 0.2  # of a pixel in [-1,1] that continues into the changed region
FAINT, SOLID = 0.05, 0.5  # coverage up to which the query stays as it is, and from which the change shows in full
UNSEEN, SEEN = 0.04, 0.12  # the same for differences between renderings, means over the channels of pixels in [-1,1]


@dataclass(frozen=True)
class QueryRenderings:
    """N queries and the renderings of their layouts."""

    queries: Tensor  # N,3,H,W in [-1,1]
    rendered: Tensor  # N,3,H,W
    scores: Tensor  # N,K+1,H,W: score maps
    appearance: Tensor  # N,K+1,L: features and styles
    segments: Tensor | None = None  # N,K+1,H,W bool: pixels of the segment of each blob; None: unknown
    near: Tensor | None = None  # N,K+1,H,W: score maps near these segments, 0 elsewhere


@dataclass(frozen=True)
class Composer:
    """Images of changed layouts. Without `base` they are rendered.

    With queries x of layouts b, the image of a changed layout b' is x + M (G(b') - G(b) - L (x - G(b) - E)). The
    coverage M is how much the changed blobs paint before or after; where it is 0 the query's pixels keep their bits.
    The lost content L is how much of a pixel no longer shows what it did. The inversion's error x - G(b) is part of
    what is seen there and disappears with it, so that a removed object leaves no ghost. Instead, the error E of the
    surroundings, x - G(b') where M is 0, continues smoothly, so that the change has no seam. M and L are widened.

    Scores are vague: a blob also paints some of what surrounds its object, and not all of the object. If the segments
    of the queries are known, M and L are 1 on those that disappear, and elsewhere only as large as G(b') - G(b) is
    visible; what a blob paints before the change counts only near its segment.
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
            rendered, scores = networks.draw(layout)
            return {"rendered": rendered, "scores": scores, "appearance": _appearance(layout)}

        rendered, segments = in_batches(render, batch_size, form.flatten(layout)), networks.segments
        if segments is not None:
            found = in_batches(lambda images: {"segments": segments(images)}, batch_size, queries)["segments"]
            rendered |= {"segments": found, "near": rendered["scores"] * widened(found.float(), NEAR)}
        return cls(networks, form, QueryRenderings(queries, **rendered))

    def compose(self, vector: Tensor, image_index: Tensor, blobs: Tensor) -> Tensor:
        """Compute the images (R,3,H,W) of layout vectors (R,D) of the queries `image_index` (R,).

        Only the background and the blobs in `blobs`, bool (R,K+1), may differ from the query's layout.
        """
        if self.base is None:
            return self.networks.render(self.form.unflatten(vector))
        return self.draw(vector, image_index, blobs)[0]

    def draw(self, vector: Tensor, image_index: Tensor, blobs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images of `compose`, the renderings (R,3,H,W) and their score maps (R,K+1,H,W)."""
        layout = self.form.unflatten(vector)
        rendered, scores_after = self.networks.draw(layout)
        if self.base is None:
            return rendered, rendered, scores_after
        query, before = self.base.queries[image_index], self.base.rendered[image_index]
        with torch.no_grad():
            scores = self.base.scores[image_index]
            kept = kept_appearance(self.base.appearance[image_index], _appearance(layout))
            lost = widened(lost_content(scores, scores_after, kept))
            painted = scores if self.base.near is None else self.base.near[image_index]
            mask = widened(coverage(painted, scores_after, blobs))
            if self.base.segments is not None:
                gone = widened(vanished(self.base.segments[image_index], scores, scores_after, kept))
                seen = visible(rendered - before)
                mask, lost = torch.maximum(mask * seen, gone), torch.maximum(lost * seen, gone)
            error = continued((query - rendered).clamp(-LARGEST_ERROR, LARGEST_ERROR), (1 - mask).to(query.dtype))
        change = mask * (rendered - before - lost * (query - before - error))
        return torch.where(mask > 0, (query + change).clamp(-1, 1), query), rendered, scores_after


def coverage(before: Tensor, after: Tensor, blobs: Tensor) -> Tensor:
    """Compute how much of each pixel, (N,1,H,W) in [0,1], `blobs` (N,K+1) paint in either score map (N,K+1,H,W).

    >>> scores = torch.tensor([0.6, 0.4])[None, :, None, None]  # the blob paints 40% of the only pixel
    >>> round(coverage(scores, scores, torch.tensor([[False, True]])).item(), 4)  # between FAINT and SOLID
    0.7778
    """
    share = torch.where(blobs[:, :, None, None], torch.maximum(before, after), 0).sum(1, keepdim=True)
    return ((share - FAINT) / (SOLID - FAINT)).clamp(0, 1)


def kept_appearance(before: Tensor, after: Tensor) -> Tensor:
    """Return how much of its appearance (N,K+1,L) each blob keeps, (N,K+1) in [0,1].

    A blob whose appearance l becomes l' keeps 1 - |l' - l| / |l|, at least nothing.

    >>> [round(kept_appearance(torch.ones(1, 1, 4), factor * torch.ones(1, 1, 4)).item(), 4) for factor in (1.5, 3.0)]
    [0.5, 0.0]
    """
    length = torch.linalg.vector_norm(before, dim=2).clamp(min=torch.finfo(before.dtype).tiny)
    return (1 - torch.linalg.vector_norm(after - before, dim=2) / length).clamp(min=0)


def lost_content(before: Tensor, after: Tensor, kept: Tensor) -> Tensor:
    """Compute how much of each pixel, (N,1,H,W) in [0,1], no longer shows what it did.

    Score maps are (N,K+1,H,W); `kept` (N,K+1) is how much of its appearance each blob keeps.

    >>> before = torch.tensor([0.6, 0.4])[None, :, None, None]
    >>> after = torch.tensor([1.0, 0.0])[None, :, None, None]  # the blob disappears, the background stays
    >>> [round(lost_content(before, after, torch.full((1, 2), kept)).item(), 4) for kept in (1.0, 0.5, 0.0)]
    [0.4, 0.7, 1.0]
    """
    remaining = torch.minimum(before, after) * kept[:, :, None, None].to(before.dtype)
    return (before - remaining).sum(1, keepdim=True)


def vanished(segments: Tensor, before: Tensor, after: Tensor, kept: Tensor) -> Tensor:
    """Compute how much of each pixel, (N,1,H,W) in [0,1], belongs to a segment that disappears or looks different.

    A blob keeps the share `kept` (N,K+1) of its appearance, where its score maps (N,K+1,H,W) overlap; `segments`
    (N,K+1,H,W) bool are the pixels of the blobs in the query.

    >>> segments = torch.tensor([False, True]).expand(2, 2).T[None, :, None]  # the blob's segment is the image
    >>> before = torch.tensor([[1.0, 0.5], [0.0, 0.5]])[None, :, None]  # which the blob paints half of one pixel of
    >>> vanished(segments, before, torch.tensor([1.0, 0.0])[None, :, None, None].expand_as(before), torch.ones(1, 2))
    tensor([[[[1., 1.]]]])
    """
    total = before.sum((2, 3)).clamp(min=torch.finfo(before.dtype).tiny)
    stays = kept * torch.minimum(before, after).sum((2, 3)) / total
    return (segments * (1 - stays)[:, :, None, None]).amax(1, keepdim=True)


def visible(difference: Tensor) -> Tensor:
    """Return how visible a difference (N,3,H,W) between renderings is around each pixel, (N,1,H,W) in [0,1].

    >>> visible(torch.tensor([0.0, 0.0, 0.0, 0.08]).repeat(1, 3, 64, 1))[0, 0, 0]
    tensor([0.0000, 0.5000, 0.5000, 0.5000])
    """
    mean = difference.abs().mean(1, keepdim=True)
    return ((widened(widened(mean)) - UNSEEN) / (SEEN - UNSEEN)).clamp(0, 1)


def widened(values: Tensor, share: int = WIDENED) -> Tensor:
    """Return the largest value (N,C,H,W) around each pixel, within H/share pixels: score maps end before objects do.

    >>> widened(torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]).repeat(64, 1)[None, None])[0, 0, 0]
    tensor([0., 1., 1., 1., 0.])
    """
    reach = round(values.shape[2] / share)
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
