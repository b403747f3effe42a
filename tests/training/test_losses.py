"""Losses against numbers worked by hand."""

import math

import pytest
import torch

from blobex.training.gan import discriminator_loss, generator_loss, r1_penalty


def logit(probability):
    return math.log(probability / (1 - probability))


def test_generator_loss_is_minus_the_log_probability_of_being_real():
    logits = torch.tensor([[logit(0.5)], [logit(0.25)]])
    assert generator_loss(logits).item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_discriminator_loss_is_the_cross_entropy_of_both_halves():
    real = torch.tensor([[logit(0.5)], [logit(0.8)]])
    fake = torch.tensor([[logit(0.1)], [logit(0.6)]])
    expected = -(math.log(0.5) + math.log(0.8)) / 2 - (math.log(0.9) + math.log(0.4)) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)


def test_logistic_losses_stay_finite_far_out():
    far = torch.tensor([[-1e4], [1e4]])
    assert generator_loss(far).item() == pytest.approx(5e3)
    assert discriminator_loss(far, far).item() == pytest.approx(1e4)


def test_r1_of_a_linear_discriminator_is_its_squared_weight():
    """The logit sum(w x) has the gradient w at every image, whatever the batch."""
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    for batch in (1, 5):
        real = torch.rand(batch, 3, 4, 4, requires_grad=True)
        penalty = r1_penalty((real * weight).sum((1, 2, 3)), real)
        assert penalty.item() == pytest.approx(weight.square().sum().item(), rel=1e-5)


def test_r1_of_a_quadratic_discriminator_and_its_gradient():
    """The logit a x^2 at x = 3 has the gradient 6a: the penalty is 36 a^2, its derivative in a 72 a."""
    strength = torch.tensor(0.5, requires_grad=True)
    real = torch.full((2, 1, 1, 1), 3.0, requires_grad=True)
    penalty = r1_penalty(strength * real.square().sum((1, 2, 3)), real)
    penalty.backward()
    assert penalty.item() == pytest.approx(9) and strength.grad.item() == pytest.approx(36)
