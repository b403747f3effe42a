"""Adversarial losses, each a mean over the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.networks.ops import at_least_float32


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the non-saturating logistic loss (Goodfellow et al., NeurIPS 2014).

    >>> generator_loss(torch.tensor([0.0]))  # log 2: the logits say nothing
    tensor(0.6931)
    """
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the logistic loss, which is small if real images score high and generated ones low.

    >>> discriminator_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor(1.3863)
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """Return the R1 penalty: the squared gradient of the logits at real images.

    Mescheder et al., ICML 2018, equation 9, without the factor gamma/2.

    >>> real = torch.zeros(2, 1, 1, 2, requires_grad=True)
    >>> r1_penalty(3 * real.sum((1, 2, 3)), real).item()  # two pixels, gradient 3 each
    18.0
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return at_least_float32(gradient).square().sum((1, 2, 3)).mean()
