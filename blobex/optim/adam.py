"""Adam (Kingma & Ba, ICLR 2015) where every row has its own count of steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blobex.optim.batching import State

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def begin(vector: Tensor) -> State:
    """The state before the first step, for vectors (N,D)."""
    zeros = torch.zeros_like(vector)
    return {"vector": vector, "first": zeros, "second": zeros, "age": torch.zeros_like(vector[:, 0], dtype=torch.long)}


def step(state: State, gradient: Tensor, rate: Tensor, betas: tuple[float, float] = BETAS) -> State:
    """The state after one step. `gradient` (N,D); `rate` broadcasts to (N,D): the learning rate of each number."""
    slow, slower = betas
    age = state["age"] + 1
    first = state["first"].lerp(gradient, 1 - slow)
    second = state["second"].lerp(gradient.square(), 1 - slower)
    power = age[:, None].to(gradient.dtype)
    spread = (second / _share(slower, power)).sqrt().add_(EPSILON)
    vector = state["vector"] - rate * (first / _share(slow, power)) / spread
    return {"vector": vector, "first": first, "second": second, "age": age}


def _share(beta: float, power: Tensor) -> Tensor:
    """1 - beta**power. Unlike a power, an exponential rounds alike wherever in a batch it stands."""
    return -torch.expm1(power * math.log(beta))
