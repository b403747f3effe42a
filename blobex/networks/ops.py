"""Layers of StyleGAN2 (Karras et al., CVPR 2020) from plain torch operations, twice differentiable.

Every parameter is stored at unit scale and multiplied by its He constant when used ("equalised learning rate",
Karras et al., ICLR 2018, section 4.1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.core.errors import BlobexError

GAIN = math.sqrt(2)
SLOPE = 0.2


def leaky(x: Tensor) -> Tensor:
    """Apply a leaky ReLU of slope 0.2 and gain sqrt(2), which keeps the variance."""
    return F.leaky_relu(x, SLOPE) * GAIN


def pixel_norm(x: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Divide each vector of the last dimension by its root mean square."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precisions to float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate, times `multiplier`."""

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.scale = multiplier / math.sqrt(inputs)
        self.multiplier = multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.multiplier)


class EqualConv(nn.Module):
    """Convolution with equalised learning rate, a bias and the leaky ReLU; without both if `linear`.

    The activation's gain is multiplied into weight and bias, which saves a pass.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, linear: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = None if linear else nn.Parameter(torch.zeros(outputs))
        self.scale = 1 / math.sqrt(inputs * kernel * kernel)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return F.conv2d(x, self.weight * self.scale, stride=self.stride, padding=self.padding)
        weight, bias = self.weight * (self.scale * GAIN), self.bias * GAIN
        return F.leaky_relu(F.conv2d(x, weight, bias, self.stride, self.padding), SLOPE)


def blur(x: Tensor, padding: int, gain: float = 1.0, bias: Tensor | None = None) -> Tensor:
    """Filter each channel with the kernel [1,3,3,1] x [1,3,3,1] of sum `gain` (Zhang, ICML 2019) and add `bias`."""
    return cast(Tensor, _Blur.apply(x, padding, gain, bias))


def upsample(x: Tensor) -> Tensor:
    """Double height and width with the filter of `blur`."""
    return F.conv_transpose2d(x, _kernel(x, 4.0), stride=2, padding=1, groups=x.shape[1])


class _Blur(torch.autograd.Function):
    """Blur whose gradient is a blur, as the kernel is symmetric: several times faster than the general gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, padding: int, gain: float, bias: Tensor | None) -> Tensor:
        ctx.padding, ctx.gain = padding, gain
        bias = None if bias is None else bias.to(x.dtype)
        return F.conv2d(x, _kernel(x, gain), bias, padding=padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        x = blur(gradient[0], 3 - ctx.padding, ctx.gain) if ctx.needs_input_grad[0] else None
        exact = torch.promote_types(gradient[0].dtype, torch.float32)  # many values are summed
        bias = gradient[0].sum((0, 2, 3), dtype=exact) if ctx.needs_input_grad[3] else None
        return x, None, None, bias


def _kernel(x: Tensor, gain: float) -> Tensor:
    # While a program is exported, tensors stand for others and must not be kept.
    make = _make_kernel if torch.compiler.is_compiling() else _kept_kernel
    return make(x.device, x.dtype, gain).expand(x.shape[1], 1, 4, 4)


def _make_kernel(device: torch.device, dtype: torch.dtype, gain: float) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # usable with gradients, whoever asks first
        row = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device)
        return (torch.outer(row, row) * (gain / 64)).to(dtype)


_kept_kernel = functools.lru_cache(maxsize=64)(_make_kernel)  # a tensor from a list is a copy that a GPU waits for


def check_levels(channels: Mapping[int, int], smallest: int, height: int, name: str) -> None:
    """Raise BlobexError unless the levels of `channels` are smallest, 2 smallest, 4 smallest, ..., height."""
    levels = [smallest << doublings for doublings in range(len(channels))]
    if sorted(channels) != levels or levels[-1:] != [height]:
        wanted = f"list {smallest} and its doubles up to {height}, the height of the images"
        raise BlobexError(f"{name} has the levels {sorted(channels)}: {wanted}")
