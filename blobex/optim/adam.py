"""Adam (Kingma & Ba, ICLR 2015, algorithm 1) in which every row counts its own iterations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blobex.optim.batching import State

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def init(vector: Tensor) -> State:
    """Return the state before the first step: `vector` (N,D), its two moments, and `iteration` (N,)."""
    zeros = torch.zeros_like(vector)
    iteration = torch.zeros_like(vector[:, 0], dtype=torch.long)
    return {"vector": vector, "moment1": zeros, "moment2": zeros, "iteration": iteration}


def step(state: State, gradient: Tensor, learning_rate: Tensor, betas: tuple[float, float] = BETAS) -> State:
    """Return the state after one step with a gradient (N,D) and learning rates that broadcast to (N,D)."""
    iteration = state["iteration"] + 1
    moment1 = state["moment1"].lerp(gradient, 1 - betas[0])
    moment2 = state["moment2"].lerp(gradient.square(), 1 - betas[1])
    power = iteration[:, None].to(gradient.dtype)
    root = (moment2 / _bias_correction(betas[1], power)).sqrt().add_(EPSILON)
    vector = state["vector"] - learning_rate * (moment1 / _bias_correction(betas[0], power)) / root
    return {"vector": vector, "moment1": moment1, "moment2": moment2, "iteration": iteration}


def _bias_correction(beta: float, power: Tensor) -> Tensor:
    """Compute 1 - beta**power. Unlike pow, expm1 rounds a number alike wherever in a batch it stands."""
    return -torch.expm1(power * math.log(beta))
