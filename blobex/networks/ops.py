"""The layers of StyleGAN2 (Karras et al., CVPR 2020) from plain torch operations, twice differentiable.

Every parameter is stored at unit scale and multiplied by its He constant when used ("equalised learning rate",
Karras et al., ICLR 2018, section 4.1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAIN = math.sqrt(2)
SLOPE = 0.2


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU that keeps the variance: slope 0.2, gain sqrt(2)."""
    return F.leaky_relu(x, SLOPE) * GAIN


def pixel_norm(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Each vector of the last dimension divided by its root mean square."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate; `multiplier` slows learning down further."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale = multiplier / math.sqrt(inputs)
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.multiplier)


class EqualConv(nn.Module):
    """Convolution with equalised learning rate, without bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = 1 / math.sqrt(inputs * kernel * kernel)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)


class BiasedLeaky(nn.Module):
    """A bias per channel, then the leaky ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return leaky(x + self.bias.to(x.dtype).view(1, -1, 1, 1))


def binomial_kernel() -> Tensor:
    """The 4x4 low-pass filter [1,3,3,1] x [1,3,3,1] with sum one (Zhang, ICML 2019)."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(row, row) / 64


def _per_channel(x: Tensor, gain: float) -> Tensor:
    kernel = (binomial_kernel() * gain).to(x)
    return kernel.expand(x.shape[1], 1, 4, 4)


def blur(x: Tensor, padding: int, gain: float = 1.0, stride: int = 1) -> Tensor:
    """Filter each channel with the binomial kernel."""
    return F.conv2d(x, _per_channel(x, gain), stride=stride, padding=padding, groups=x.shape[1])


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width, filtered with the binomial kernel."""
    return F.conv_transpose2d(x, _per_channel(x, 4.0), stride=2, padding=1, groups=x.shape[1])
