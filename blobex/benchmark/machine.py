"""Time and memory of function calls, and the peak speed of the machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

CHANNELS, HEIGHT, WIDTH, BATCH = 128, 32, 64, 16  # of the convolution that measures the peak
REPEATS = 20


@dataclass(frozen=True)
class Cost:
    """The cost of one function call."""

    seconds: float
    processor_seconds: float  # of all threads of this process
    peak_bytes: int  # peak memory of the GPU, or of the process on a CPU


def timed(function: Callable[[], object], device: torch.device) -> Cost:
    """Measure one call, including the work that it queues on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux resets the peak
    begun, used = time.perf_counter(), time.process_time()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost(time.perf_counter() - begun, time.process_time() - used, peak_bytes(device))


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory since the start of `timed`: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def peak_flops(device: torch.device, precision: torch.dtype) -> float:
    """Measure the operations per second (a multiply-add counts two) of a 3x3 convolution of 128 channels.

    The best of several calls, channels last: an upper bound for the generator's convolutions.
    """
    random = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, CHANNELS, HEIGHT, WIDTH, generator=random)
    images = images.to(device, precision).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, generator=random)
    weight = weight.to(device, precision).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = [timed(lambda: F.conv2d(images, weight, padding=1), device).seconds for _ in range(REPEATS)]
    return 2 * BATCH * HEIGHT * WIDTH * CHANNELS * CHANNELS * 9 / min(seconds)
