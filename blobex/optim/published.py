"""What the published inversion and the published search share (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.layout.published_splat import splat_by_solver


def adam(start: BlobLayout, rate: float, size_rate: float) -> tuple[dict[str, Tensor], torch.optim.Adam]:
    """Leaves that begin at `start`, by key, and Adam over them; `sizes` have a rate of their own."""
    free = {key: tensor.detach().clone().requires_grad_() for key, tensor in start.items()}
    groups = [{"params": [leaf], "lr": size_rate if key == "sizes" else rate} for key, leaf in free.items()]
    return free, torch.optim.Adam(groups)


@torch.no_grad()
def draw_blobs(layout: BlobLayout, height: int, width: int) -> Tensor:
    """The blob picture (N,3,height,width) that the published scripts draw at every step: a colour for each blob."""
    colours = torch.rand(layout.blobs + 1, 3, generator=torch.Generator().manual_seed(0)).to(layout.xs)
    return torch.einsum("nkhw,kc->nchw", splat_by_solver(layout, height, width), colours)
