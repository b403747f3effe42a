"""Row-wise Adam against torch.optim.Adam."""

import pytest
import torch
from torch import Tensor

from blobex.optim import adam

ROWS, NUMBERS, STEPS = 5, 7, 12


def gradient_at(vector: Tensor) -> Tensor:
    """Return the gradient of a wavy bowl, steep in some directions and flat in others."""
    steepness = torch.logspace(-3, 2, NUMBERS, dtype=vector.dtype)
    return steepness * (vector - 0.3) + vector.sin()


def start_vectors(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(ROWS, NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def torch_adam(start: Tensor, rates: Tensor, steps: int, betas: tuple[float, float] = adam.BETAS) -> Tensor:
    """Return one row after torch's Adam: every number is a parameter with its own learning rate."""
    numbers = [number.clone().requires_grad_() for number in start]
    groups = [{"params": [number], "lr": rate.item()} for number, rate in zip(numbers, rates, strict=True)]
    optimiser = torch.optim.Adam(groups, betas=betas, eps=adam.EPSILON)
    for _ in range(steps):
        gradient = gradient_at(torch.stack(numbers).detach())
        for number, part in zip(numbers, gradient, strict=True):
            number.grad = part.clone()
        optimiser.step()
    return torch.stack(numbers).detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("betas", [adam.BETAS, (0.5, 0.9)])
def test_every_row_equals_torch(dtype: torch.dtype, tolerance: float, betas: tuple[float, float]) -> None:
    rates = torch.linspace(0.01, 0.2, NUMBERS, dtype=dtype)
    state = adam.init(start_vectors(dtype))
    for _ in range(STEPS):
        state = adam.step(state, gradient_at(state["vector"]), rates, betas)
    for row, start in enumerate(start_vectors(dtype)):
        torch.testing.assert_close(
            state["vector"][row], torch_adam(start, rates, STEPS, betas), rtol=tolerance, atol=tolerance
        )
    assert state["iteration"].tolist() == [STEPS] * ROWS


def test_rows_added_later_count_their_own_iterations() -> None:
    start = start_vectors()
    rates = torch.full((NUMBERS,), 0.05, dtype=torch.float64)
    state = adam.init(start[:2])
    for step in range(STEPS):
        if step in (3, 8):
            new = adam.init(start[2:4] if step == 3 else start[4:])
            state = {name: torch.cat([tensor, new[name]]) for name, tensor in state.items()}
        state = adam.step(state, gradient_at(state["vector"]), rates)
    iterations = [STEPS, STEPS, STEPS - 3, STEPS - 3, STEPS - 8]
    assert state["iteration"].tolist() == iterations
    for row, steps in enumerate(iterations):
        torch.testing.assert_close(state["vector"][row], torch_adam(start[row], rates, steps), rtol=1e-12, atol=1e-12)


def test_rows_may_have_different_learning_rates() -> None:
    rates = torch.rand(ROWS, NUMBERS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = adam.init(start_vectors())
    for _ in range(STEPS):
        state = adam.step(state, gradient_at(state["vector"]), rates)
    for row, start in enumerate(start_vectors()):
        torch.testing.assert_close(state["vector"][row], torch_adam(start, rates[row], STEPS), rtol=1e-12, atol=1e-12)


def test_without_learning_rate_or_gradient_nothing_changes() -> None:
    start, fixed = start_vectors(torch.float32), torch.arange(NUMBERS) % 2 == 0
    state = adam.init(start)
    for _ in range(STEPS):
        gradient = gradient_at(state["vector"])
        gradient[:, 1] = 0
        state = adam.step(state, gradient, torch.where(fixed, 0.0, 0.1))
    still = fixed.clone()
    still[1] = True
    assert torch.equal(state["vector"][:, still], start[:, still])
    assert (state["vector"] != start)[:, ~still].all()


def test_inputs_are_not_modified() -> None:
    start = start_vectors()
    state = adam.init(start)
    before = {name: tensor.clone() for name, tensor in state.items()}
    adam.step(state, gradient_at(start), torch.tensor(0.1))
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert torch.equal(start, start_vectors())
