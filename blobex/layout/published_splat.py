"""Score maps as the published BlobGAN code computes them, for comparison with `layout.splat`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import AREA, RIDGE


def splat_by_solver(layout: BlobLayout, height: int, width: int, area: float = AREA) -> Tensor:
    """Return score maps (N,K+1,height,width), as `splat.splat`, by a linear solver at every point.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> from blobex.layout.splat import splat
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
