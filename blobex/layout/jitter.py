"""Random jitter of layouts in generator training (BlobGAN, ECCV 2022, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.config.training import Jitter
from blobex.layout.blobs import BlobLayout


def jitter(layout: BlobLayout, amount: Jitter, random: torch.Generator) -> BlobLayout:
    """Move, resize and rotate each blob by uniform amounts up to `amount`; the background is unchanged.

    The direction vector is rotated, which is exact for every angle.

    >>> xs, ys, covs = torch.tensor([[0.5]]), torch.tensor([[0.5]]), torch.tensor([[[0.0, 0.0, 1.0, 0.0]]])
    >>> layout = BlobLayout(xs, ys, covs, torch.tensor([[0.0, 8.0]]), torch.ones(1, 2, 4), torch.ones(1, 2, 4))
    >>> moved = jitter(layout, Jitter(position=0.04, size=0.5, angle=0.1), torch.Generator().manual_seed(0))
    >>> bool((moved.xs - layout.xs).abs() <= 0.04), moved.features.equal(layout.features)
    (True, True)
    """

    def uniform(like: Tensor, limit: float) -> Tensor:
        return (2 * torch.rand(like.shape, generator=random, device=random.device).to(like) - 1) * limit

    angle = uniform(layout.xs, amount.angle)
    cosine, sine = angle.cos(), angle.sin()
    ux, uy = layout.covs[..., 2], layout.covs[..., 3]
    turned = torch.stack([cosine * ux - sine * uy, sine * ux + cosine * uy], dim=-1)
    return layout.replace(
        {
            "xs": layout.xs + uniform(layout.xs, amount.position),
            "ys": layout.ys + uniform(layout.ys, amount.position),
            "sizes": layout.sizes + uniform(layout.sizes, amount.size),
            "covs": torch.cat([layout.covs[..., :2], turned], dim=-1),
        }
    )
