"""Losses, each a mean over the batch unless said otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.layout import BlobLayout
from blobex.networks.ops import at_least_float32


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss (Goodfellow et al., NeurIPS 2014)."""
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss: real pictures should score high, generated ones low."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """Squared gradient of the logits at real pictures (Mescheder et al., ICML 2018, equation 9, without gamma/2)."""
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return at_least_float32(gradient).square().sum((1, 2, 3)).mean()


def blob_distance(layout: BlobLayout, target: BlobLayout) -> Tensor:
    """Per picture (N,), the sum over the six keys of the mean squared difference.

    Entry 0 of `sizes` is never read by the generator and so does not count.
    """
    total = torch.zeros_like(layout.xs[:, 0])
    for (key, value), (_, wanted) in zip(layout.items(), target.items(), strict=True):
        difference = (value - wanted)[:, 1:] if key == "sizes" else value - wanted
        total = total + difference.square().flatten(1).mean(1)
    return total
