"""Random shifts of the blobs while the generator trains (BlobGAN, ECCV 2022, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.config.training import Jitter
from blobex.layout.layout import BlobLayout


def jitter(layout: BlobLayout, amount: Jitter, random: torch.Generator) -> BlobLayout:
    """Move, resize and turn each blob by uniform amounts up to `amount`; the background has nothing to move.

    The direction vector is rotated, which is exact for every angle.
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
