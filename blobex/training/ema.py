"""Exponential moving averages of weights (Karras et al., ICLR 2018, section 4; ramp of StyleGAN2-ADA, NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RAMP = 0.05  # the half-life is at most this share of the images seen, so that initial weights are soon forgotten


def decay(batch: int, images_seen: int, half_life_images: float) -> float:
    """Return the share of the average that remains after a batch."""
    half_life = min(half_life_images, RAMP * images_seen)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Set each parameter to keep * average + (1 - keep) * model, and copy buffers."""
    averages: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(averages, list(model.parameters()), 1 - keep)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)
