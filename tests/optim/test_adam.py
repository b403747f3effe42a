"""Adam row by row, against torch's."""

import pytest
import torch
from torch import Tensor

from blobex.optim import adam

ROWS, NUMBERS, STEPS = 5, 7, 12


def slope(vector: Tensor) -> Tensor:
    """The gradient of a bowl that is steep in some directions and flat in others, and wavy."""
    steepness = torch.logspace(-3, 2, NUMBERS, dtype=vector.dtype)
    return steepness * (vector - 0.3) + vector.sin()


def begun(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(ROWS, NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def by_torch(start: Tensor, rates: Tensor, steps: int, betas: tuple[float, float] = adam.BETAS) -> Tensor:
    """The same for one row: every number is a parameter with a learning rate of its own."""
    numbers = [number.clone().requires_grad_() for number in start]
    groups = [{"params": [number], "lr": rate.item()} for number, rate in zip(numbers, rates, strict=True)]
    optimiser = torch.optim.Adam(groups, betas=betas, eps=adam.EPSILON)
    for _ in range(steps):
        gradient = slope(torch.stack(numbers).detach())
        for number, part in zip(numbers, gradient, strict=True):
            number.grad = part.clone()
        optimiser.step()
    return torch.stack(numbers).detach()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("betas", [adam.BETAS, (0.5, 0.9)])
def test_every_row_is_torchs_adam(dtype: torch.dtype, tolerance: float, betas: tuple[float, float]) -> None:
    rates = torch.linspace(0.01, 0.2, NUMBERS, dtype=dtype)
    state = adam.init(begun(dtype))
    for _ in range(STEPS):
        state = adam.step(state, slope(state["vector"]), rates, betas)
    for row, start in enumerate(begun(dtype)):
        torch.testing.assert_close(
            state["vector"][row], by_torch(start, rates, STEPS, betas), rtol=tolerance, atol=tolerance
        )
    assert state["iteration"].tolist() == [STEPS] * ROWS


def test_rows_that_began_later_are_younger() -> None:
    start = begun()
    rates = torch.full((NUMBERS,), 0.05, dtype=torch.float64)
    state = adam.init(start[:2])
    for step in range(STEPS):
        if step in (3, 8):
            new = adam.init(start[2:4] if step == 3 else start[4:])
            state = {name: torch.cat([tensor, new[name]]) for name, tensor in state.items()}
        state = adam.step(state, slope(state["vector"]), rates)
    ages = [STEPS, STEPS, STEPS - 3, STEPS - 3, STEPS - 8]
    assert state["iteration"].tolist() == ages
    for row, age in enumerate(ages):
        torch.testing.assert_close(state["vector"][row], by_torch(start[row], rates, age), rtol=1e-12, atol=1e-12)


def test_rows_may_have_rates_of_their_own() -> None:
    rates = torch.rand(ROWS, NUMBERS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    state = adam.init(begun())
    for _ in range(STEPS):
        state = adam.step(state, slope(state["vector"]), rates)
    for row, start in enumerate(begun()):
        torch.testing.assert_close(state["vector"][row], by_torch(start, rates[row], STEPS), rtol=1e-12, atol=1e-12)


def test_neither_rate_nor_gradient_means_no_move() -> None:
    start, fixed = begun(torch.float32), torch.arange(NUMBERS) % 2 == 0
    state = adam.init(start)
    for _ in range(STEPS):
        gradient = slope(state["vector"])
        gradient[:, 1] = 0
        state = adam.step(state, gradient, torch.where(fixed, 0.0, 0.1))
    still = fixed.clone()
    still[1] = True
    assert torch.equal(state["vector"][:, still], start[:, still])
    assert (state["vector"] != start)[:, ~still].all()


def test_what_was_given_is_left_alone() -> None:
    start = begun()
    state = adam.init(start)
    before = {name: tensor.clone() for name, tensor in state.items()}
    adam.step(state, slope(start), torch.tensor(0.1))
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert torch.equal(start, begun())
