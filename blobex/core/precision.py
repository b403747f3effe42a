"""Precision in which this machine's processor convolves fastest: measured once, then kept in the user's cache folder.

The kept answer is final: a measurement on a busy machine may come out otherwise, and results depend on the precision.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from blobex.core.cache import is_kept, keep, read_kept

Precision = Literal["float32", "bfloat16"]
CLEARLY = 1.2  # times as fast as float32 that bfloat16 must be
IMAGES, CHANNELS, HEIGHT, WIDTH = 2, 64, 32, 64  # of the convolution: 0.3 Gflop
SECONDS = 0.025  # of processor time for each precision


@cache
def cpu_precision() -> Precision:
    """Return bfloat16 if this processor convolves in it clearly faster than in float32, else float32.

    The first process on a machine measures it. If its answer cannot be kept, the processor's instructions decide.
    """
    name = f"precision-{_machine()}.json"
    damaged, kept = is_kept(name), _known(read_kept(name))
    if kept is None:
        ratio = measured_ratio()
        answer = {"precision": "bfloat16" if ratio >= CLEARLY else "float32", "ratio": round(ratio, 2)}
        keep(name, answer, replace=damaged)
        kept = _known(read_kept(name))
    return kept or _by_instructions()


def measured_ratio() -> float:
    """Measure the processor time of a 3x3 convolution in float32, divided by that in bfloat16, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _convolution_time(torch.float32) / _convolution_time(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)


def _convolution_time(dtype: torch.dtype) -> float:
    """Return the shortest processor time of one convolution, in seconds. The first run, which prepares, is left out."""
    images = torch.ones(IMAGES, CHANNELS, HEIGHT, WIDTH, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(CHANNELS, CHANNELS, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    times = list[float]()
    with torch.no_grad():
        F.conv2d(images, weight, padding=1)
        while len(times) < 2 or sum(times) < SECONDS:
            start = time.process_time()
            F.conv2d(images, weight, padding=1)
            times.append(max(time.process_time() - start, 1e-6))
    return min(times)


def _machine() -> str:
    """Return a short hash of what the answer depends on: the processor and PyTorch's version."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    parts = [model, torch.cpu.get_capabilities(), torch.__version__]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _known(kept: object) -> Precision | None:
    answer = kept.get("precision") if isinstance(kept, dict) else None
    return next((precision for precision in get_args(Precision) if precision == answer), None)


def _by_instructions() -> Precision:
    instructions = torch.cpu.get_capabilities()
    return "bfloat16" if instructions.get("avx512_bf16") or instructions.get("amx_bf16") else "float32"
