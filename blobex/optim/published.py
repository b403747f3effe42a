"""Parts that the published inversion and the published search share (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import splat_by_solver


def leaves_with_adam(
    start: BlobLayout, learning_rate: float, size_learning_rate: float
) -> tuple[dict[str, Tensor], torch.optim.Adam]:
    """Return one leaf tensor per key, with the values of `start`, and Adam over them."""
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in start.items()}
    rates = {key: size_learning_rate if key == "sizes" else learning_rate for key in leaves}
    return leaves, torch.optim.Adam([{"params": [leaf], "lr": rates[key]} for key, leaf in leaves.items()])


@torch.no_grad()
def draw_blobs(layout: BlobLayout, height: int, width: int) -> Tensor:
    """Draw each blob in a colour of its own, (N,3,height,width), as the published scripts do at every step."""
    colours = torch.rand(layout.blobs + 1, 3, generator=torch.Generator().manual_seed(0)).to(layout.xs)
    return torch.einsum("nkhw,kc->nchw", splat_by_solver(layout, height, width), colours)
