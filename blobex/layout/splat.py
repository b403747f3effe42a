"""Score maps of blob layouts: the weight of each blob at each point (BlobGAN, ECCV 2022, section 3.1, eq. 1-4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blobex.layout.blobs import BlobLayout, concatenate

AREA = 0.02  # published: the geometric mean of a blob's two squared half-axes, in squared image heights
RIDGE = 1e-5  # keeps the covariance invertible
BATCH = 16  # layouts splatted at once by `dominant_blobs`


@dataclass(frozen=True)
class Canvas:
    """Grid of the image to render.

    A native rectangle is rendered on its own grid, with lengths in image heights, so that blobs keep their shape. A
    legacy one is rendered on the height x height square and stretched by nearest neighbour, as the published
    checkpoints need it.
    """

    height: int
    aspect_ratio: int
    legacy: bool = False
    area: float = AREA  # squared half-axis of blobs of size 1; a smaller area makes all edges sharper

    @property
    def width(self) -> int:
        return self.height * self.aspect_ratio


def splat(layout: BlobLayout, height: int, width: int, area: float = AREA) -> Tensor:
    """Return score maps (N,K+1,height,width), background first, which sum to one at every point.

    Each opacity is sigmoid(size - squared Mahalanobis distance); blobs are alpha-composited, the highest in front.
    Grid point i of `height` is at i/height; x is in heights too, and a centre of x = 1 is the right edge.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> scores = splat(layout, 16, 32)
    >>> scores.shape, bool((scores.sum(1) - 1).abs().max() < 1e-6)
    (torch.Size([1, 2, 16, 32]), True)
    """
    return composite(opacity_logits(layout, height, width, area))


def composite(logits: Tensor) -> Tensor:
    """Alpha-composite opacity logits (N,K,h,w) to score maps (N,K+1,h,w), background first.

    >>> composite(torch.zeros(1, 2, 1, 1)).flatten()  # two blobs of opacity 1/2: the front one hides half of all others
    tensor([0.2500, 0.2500, 0.5000])
    """
    return cast(Tensor, _Composite.apply(logits))


class _Composite(torch.autograd.Function):
    """Alpha-composite opacity logits (N,K,h,w) to score maps (N,K+1,h,w), once differentiable.

    The gradient has a closed form: with p = score * its gradient, that of logit k is p_k less its opacity times the
    sum of p over the background and the blobs up to k, which it hides.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        hidden = F.softplus(logits)  # -log(1 - opacity): logarithms keep thin products exact
        scores = logits.new_empty(logits.shape[0], logits.shape[1] + 1, *logits.shape[2:])
        behind = torch.zeros_like(logits[:, 0])  # sum over this blob and all in front of it
        for blob in reversed(range(logits.shape[1])):
            behind = behind + hidden[:, blob]
            torch.exp(logits[:, blob] - behind, out=scores[:, blob + 1])
        torch.exp(-behind, out=scores[:, 0])
        ctx.save_for_backward(logits, scores)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        logits, scores = ctx.saved_tensors
        result = torch.empty_like(logits)
        hidden = gradient[0][:, 0] * scores[:, 0]  # sum over the background and all blobs so far
        for blob in range(logits.shape[1]):  # one map at a time stays in the processor's cache
            weighted = gradient[0][:, blob + 1] * scores[:, blob + 1]
            hidden = hidden + weighted
            torch.addcmul(weighted, torch.sigmoid(logits[:, blob]), hidden, value=-1, out=result[:, blob])
        return result


def opacity_logits(layout: BlobLayout, height: int, width: int, area: float = AREA) -> Tensor:
    """Return size logits minus squared Mahalanobis distances, (N,K,height,width).

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> opacity_logits(layout, 4, 4)[0, 0, 2, 2]  # at the blob's centre: its size
    tensor(8.)
    """
    aspect = width / height
    y = torch.arange(height, device=layout.xs.device, dtype=layout.xs.dtype) / height
    x = torch.arange(width, device=layout.xs.device, dtype=layout.xs.dtype) / height
    dx = x - aspect * layout.xs[..., None]  # N,K,width
    dy = y - layout.ys[..., None]  # N,K,height
    direction = F.normalize(layout.covs[..., 2:], dim=-1)
    ux, uy = direction.unbind(-1)  # N,K
    long, short = half_axes(layout.covs, area)
    # Both axes are eigenvectors, so the inverse covariance is exact without a solver; expanded to a quadratic form
    # xx dx^2 + 2 xy dx dy + yy dy^2, of which only one term is as large as the image.
    xx = ux * ux / long + uy * uy / short
    yy = uy * uy / long + ux * ux / short
    xy = ux * uy * (1 / long - 1 / short)
    columns = layout.sizes[:, 1:, None] - xx[..., None] * dx * dx  # N,K,width
    rows = -yy[..., None] * dy * dy  # N,K,height
    cross = -2 * xy[..., None] * dy
    # columns + rows + cross dx is a product of rank three: one pass over the maps, and two for the gradient.
    down = torch.stack([torch.ones_like(rows), rows, cross], dim=-1).flatten(0, 1)
    along = torch.stack([columns, torch.ones_like(columns), dx], dim=2).flatten(0, 1)
    return torch.bmm(down, along).unflatten(0, layout.xs.shape)


def half_axes(covs: Tensor, area: float = AREA) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of the covariances, along and across the blob's direction, (N,K) each.

    >>> half_axes(torch.tensor([[0.0, 0.0, 1.0, 0.0]]), area=0.02)  # equal aspects: a circle
    (tensor([0.0200]), tensor([0.0200]))
    """
    ratio = 0.5 * (F.logsigmoid(covs[..., 0]) - F.logsigmoid(covs[..., 1]))
    return area * torch.exp(ratio) + RIDGE, area * torch.exp(-ratio) + RIDGE


def score_pyramid(
    layout: BlobLayout,
    canvas: Canvas,
    smallest: int,
    splat: Callable[[BlobLayout, int, int, float], Tensor] = splat,
    edges: Tensor | None = None,
) -> dict[int, Tensor]:
    """Return score maps (N,K+1,height,width) by level height, from `smallest` to the canvas.

    They are computed at full resolution and averaged down by successive halving. `edges` (N,K,height,width) are added
    to the opacity logits.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> {height: tuple(scores.shape) for height, scores in score_pyramid(layout, Canvas(16, 2), smallest=4).items()}
    {16: (1, 2, 16, 32), 8: (1, 2, 8, 16), 4: (1, 2, 4, 8)}
    """
    width = canvas.height if canvas.legacy else canvas.width
    if edges is None:
        scores = splat(layout, canvas.height, width, canvas.area)
    else:
        scores = composite(opacity_logits(layout, canvas.height, width, canvas.area) + edges)
    levels: dict[int, Tensor] = {}
    height = canvas.height
    while True:
        levels[height] = scores.repeat_interleave(canvas.aspect_ratio, dim=3) if canvas.legacy else scores
        if height <= smallest:
            return levels
        scores, height = F.avg_pool2d(scores, 2), height // 2


def splat_by_solver(layout: BlobLayout, height: int, width: int, area: float = AREA) -> Tensor:
    """Return score maps (N,K+1,height,width), as the published code, by a linear solver at every point.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> splat_by_solver(layout, 8, 16).allclose(splat(layout, 8, 16), atol=1e-5)
    True
    """
    aspect = width / height
    rows, columns = (torch.arange(size, device=layout.xs.device).to(layout.xs) / height for size in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()])  # 2,height*width
    centres = torch.stack([layout.xs * aspect, layout.ys], dim=-1)
    offsets = points - centres[..., None]  # N,K,2,height*width
    solved = torch.linalg.solve(covariance(layout.covs, area), offsets)
    opacity = torch.sigmoid(layout.sizes[:, 1:, None] - (offsets * solved).sum(2))  # N,K,height*width
    clear = torch.ones_like(opacity[:, :1])
    transmittance = torch.cat([(1 - opacity).flip(1).cumprod(1).flip(1), clear], dim=1)  # of all blobs in front
    scores = torch.cat([clear, opacity], dim=1) * transmittance
    return scores.unflatten(2, (height, width))


def covariance(covs: Tensor, area: float = AREA) -> Tensor:
    """Return covariances (N,K,2,2): a u u^T + b v v^T + ridge, with aspects a and b scaled to one area.

    >>> covariance(torch.tensor([0.0, 0.0, 1.0, 0.0]), area=0.02).diagonal()
    tensor([0.0200, 0.0200])
    """
    aspects = torch.sigmoid(covs[..., :2])
    aspects = aspects * (area / aspects.prod(-1, keepdim=True).sqrt())
    u = F.normalize(covs[..., 2:], dim=-1)
    v = torch.stack([-u[..., 1], u[..., 0]], dim=-1)
    axes = torch.stack([u, v], dim=-1)
    ridge = RIDGE * torch.eye(2, device=covs.device, dtype=covs.dtype)
    return axes @ torch.diag_embed(aspects) @ axes.transpose(-1, -2) + ridge


@torch.no_grad()
def dominant_blobs(layouts: Sequence[BlobLayout], canvas: Canvas) -> Tensor:
    """Return the index of the blob with the largest score at each point, int64 (N,H,W); -1 is the background.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> dominant_blobs([layout], Canvas(4, 2))[0, 2]
    tensor([-1, -1, -1,  0,  0,  0, -1, -1])
    """
    batches = [concatenate(list(layouts[first : first + BATCH])) for first in range(0, len(layouts), BATCH)]
    scores = (score_pyramid(batch, canvas, canvas.height)[canvas.height] for batch in batches)
    return torch.cat([batch.argmax(1) - 1 for batch in scores])
