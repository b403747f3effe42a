"""Losses, each a mean over the batch unless said otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.layout.blobs import BlobLayout
from blobex.networks.ops import at_least_float32


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating logistic loss (Goodfellow et al., NeurIPS 2014).

    >>> generator_loss(torch.tensor([0.0]))  # log 2: the discriminator cannot tell
    tensor(0.6931)
    """
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Logistic loss: real pictures should score high, generated ones low.

    >>> discriminator_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor(1.3863)
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """Squared gradient of the logits at real pictures (Mescheder et al., ICML 2018, equation 9, without gamma/2).

    >>> real = torch.zeros(2, 1, 1, 2, requires_grad=True)
    >>> r1_penalty(3 * real.sum((1, 2, 3)), real).item()  # two pixels, gradient 3 each
    18.0
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return at_least_float32(gradient).square().sum((1, 2, 3)).mean()


def blob_distance(layout: BlobLayout, target: BlobLayout) -> Tensor:
    """Per picture (N,), the sum over the six keys of the mean squared difference.

    Entry 0 of `sizes` is never read by the generator and so does not count.

    >>> layout = BlobLayout(*(torch.zeros(1, 2) for _ in range(6)))
    >>> blob_distance(layout, layout.replace({"ys": torch.ones(1, 2)}))
    tensor([1.])
    """
    total = torch.zeros_like(layout.xs[:, 0])
    for (key, value), (_, wanted) in zip(layout.items(), target.items(), strict=True):
        difference = (value - wanted)[:, 1:] if key == "sizes" else value - wanted
        total = total + difference.square().flatten(1).mean(1)
    return total
