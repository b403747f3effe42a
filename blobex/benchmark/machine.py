"""What the machine can do, and what a piece of work took of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")

CHANNELS, HEIGHT, WIDTH, BATCH = 128, 32, 64, 16  # of the convolution that is taken for the machine's peak
REPEATS = 20


@dataclass(frozen=True)
class Cost:
    """What calling a function once took."""

    seconds: float
    peak_bytes: int  # the most memory held meanwhile: of the GPU, or of the whole process


def timed(function: Callable[[], object], device: torch.device) -> Cost:
    """The cost of one call, the device's pending work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux begins to count the peak anew
    begun = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost(time.perf_counter() - begun, peak_bytes(device))


def peak_bytes(device: torch.device) -> int:
    """The most memory held since `timed` began: on the GPU, or by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def peak_flops(device: torch.device, precision: torch.dtype) -> float:
    """Floating-point operations per second (a multiply-add counts two) of a 3x3 convolution of 128 channels.

    The best of several calls, channels last: what the generator's own convolutions could reach at most.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=random)
    images = images.to(device, precision).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=random)
    weight = weight.to(device, precision).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = [timed(lambda: F.conv2d(images, weight, padding=1), device).seconds for _ in range(REPEATS)]
    return 2 * BATCH * HEIGHT * WIDTH * CHANNELS * CHANNELS * 9 / min(seconds)


class Counter:
    """Counts the pictures that functions give."""

    def __init__(self) -> None:
        self.pictures = 0

    def of(self, function: Callable[[T], Tensor]) -> Callable[[T], Tensor]:
        """The function, counted."""

        def counted(argument: T) -> Tensor:
            result = function(argument)
            self.pictures += len(result)
            return result

        return counted
