"""Moving average of weights."""

import copy

import pytest
import torch
from torch import nn

from blobex.training.gan import ema_decay, update_average

LATE = 10**9  # images seen, when the ramp is long over


def filled(value):
    linear = nn.Linear(2, 3)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.fill_(value)
    return linear


def test_half_of_the_average_remains_after_its_half_life():
    assert ema_decay(10_000, LATE, 10_000) == pytest.approx(0.5)
    assert ema_decay(20_000, LATE, 10_000) == pytest.approx(0.25)


@pytest.mark.parametrize("batch", [1, 10, 250])
def test_average_is_the_closed_form_and_does_not_depend_on_the_batch(batch):
    """From 0 towards a constant 1, after n images: 1 - 2^(-n / half-life)."""
    average, model = filled(0.0), filled(1.0)
    for _ in range(1000 // batch):
        update_average(average, model, ema_decay(batch, LATE, 500))
    for parameter in average.parameters():
        torch.testing.assert_close(parameter, torch.full_like(parameter, 0.75), rtol=1e-4, atol=1e-4)


def test_average_converges_to_constant_weights():
    average, model = filled(-3.0), filled(2.0)
    for _ in range(100):
        update_average(average, model, ema_decay(100, LATE, 500))
    torch.testing.assert_close(average.weight, model.weight, rtol=1e-5, atol=1e-5)


def test_ramp_shortens_the_half_life_early_on():
    """A twentieth of the images seen, until that reaches the half-life."""
    assert ema_decay(50, 1000, 10_000) == pytest.approx(0.5)
    assert ema_decay(50, 0, 10_000) == 0.0
    decays = [ema_decay(32, seen, 10_000) for seen in (32, 1000, 100_000, 200_000, 400_000)]
    assert decays == sorted(decays) and decays[-2] == decays[-1] == pytest.approx(0.5 ** (32 / 10_000))


def test_first_update_discards_the_initial_weights():
    average, model = filled(100.0), filled(1.0)
    update_average(average, model, ema_decay(32, 32, 10_000))
    torch.testing.assert_close(average.weight, model.weight, rtol=1e-3, atol=1e-3)


def test_buffers_are_copied_and_the_model_is_unchanged():
    model = nn.BatchNorm1d(3)
    average = copy.deepcopy(model).requires_grad_(False)
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = copy.deepcopy(model.state_dict())
    update_average(average, model, 0.9)
    assert torch.equal(average.running_mean, model.running_mean)
    assert average.num_batches_tracked == model.num_batches_tracked == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in average.parameters())
