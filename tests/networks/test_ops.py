"""The layers against plain convolutions, and their second derivatives, which the R1 penalty needs."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck
from worlds.tiny_networks import randomise

from blobex.networks.encoder import ResidualNetwork, standard_deviation_map
from blobex.networks.ops import EqualConv, EqualLinear, blur, leaky, pixel_norm, upsample
from blobex.training.gan import r1_penalty

OUTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])).double() / 64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaky_by_hand(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def test_leaky():
    x = normal(50)
    torch.testing.assert_close(leaky(x), leaky_by_hand(x))


def test_pixel_norm_gives_unit_mean_square():
    x = normal(4, 3, 7)
    expected = x.numpy() / np.sqrt((x.numpy() ** 2).mean(-1, keepdims=True) + 1e-8)
    np.testing.assert_allclose(pixel_norm(x).numpy(), expected)
    torch.testing.assert_close(pixel_norm(100 * x).square().mean(-1), torch.ones(4, 3, dtype=torch.float64))
    assert torch.equal(pixel_norm(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_equalised_linear(multiplier):
    layer = randomise(EqualLinear(7, 5, bias=0.3, multiplier=multiplier)).double()
    x = normal(4, 7)
    weight, bias = layer.weight * multiplier / math.sqrt(7), layer.bias * multiplier
    torch.testing.assert_close(layer(x), F.linear(x, weight, bias))


def test_equalised_linear_starts_at_unit_variance():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [EqualLinear(256, 256, multiplier=multiplier) for multiplier in (1.0, 0.01)]
    for layer in layers:
        out = layer(normal(256, 256).float())
        assert out.std().item() == pytest.approx(1, abs=0.02)
    assert EqualLinear(3, 2, bias=1.0)(torch.zeros(1, 3)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(1, 1, 0), (3, 1, 1), (3, 2, 0)])
def test_equalised_convolution(kernel, stride, padding):
    layer = randomise(EqualConv(3, 5, kernel, stride, padding)).double()
    x = normal(2, 3, 9, 7)
    plain = F.conv2d(x, layer.weight / math.sqrt(3 * kernel * kernel), layer.bias, stride, padding)
    torch.testing.assert_close(layer(x), leaky_by_hand(plain))
    linear = EqualConv(3, 5, kernel, stride, padding, linear=True).double()
    plain = F.conv2d(x, linear.weight / math.sqrt(3 * kernel * kernel), None, stride, padding)
    torch.testing.assert_close(linear(x), plain)


@pytest.mark.parametrize(("padding", "gain"), [(0, 1.0), (1, 4.0), (2, 1.0), (3, 0.5)])
def test_blur_is_a_convolution_with_the_binomial_kernel(padding, gain):
    x, bias = normal(2, 3, 8, 6), normal(3, seed=1)
    kernel = (gain * OUTER).expand(3, 1, 4, 4)
    expected = F.conv2d(x, kernel, bias, padding=padding, groups=3)
    torch.testing.assert_close(blur(x, padding, gain, bias), expected)
    torch.testing.assert_close(blur(x, padding, gain), expected - bias[:, None, None])


def test_blur_keeps_a_constant_image():
    flat = torch.full((1, 2, 9, 9), 3.0)
    torch.testing.assert_close(blur(flat, 0), torch.full((1, 2, 6, 6), 3.0))


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_blur_derivatives(padding):
    x, bias = normal(2, 2, 5, 6).requires_grad_(), normal(2, seed=1).requires_grad_()

    def squared(x, bias):  # its second derivatives are not all zero
        return blur(x, padding, 2.0, bias).square()

    assert gradcheck(squared, (x, bias))
    assert gradgradcheck(squared, (x, bias))


def test_blur_in_bfloat16_sums_the_gradient_of_its_bias_in_float32():
    x = torch.full((1, 1, 67, 67), 1.0, dtype=torch.bfloat16)
    bias = torch.zeros(1, requires_grad=True)
    out = blur(x, 0, 1.0, bias)
    assert out.dtype == torch.bfloat16
    out.backward(torch.ones_like(out))
    assert bias.grad.item() == 64 * 64  # bfloat16 itself would stop counting at 256


def test_upsampling_is_zero_stuffing_and_filtering():
    x = normal(2, 3, 5, 4)
    stuffed = torch.zeros(2, 3, 10, 8, dtype=torch.float64)
    stuffed[:, :, ::2, ::2] = x
    expected = F.conv2d(F.pad(stuffed, (2, 1, 2, 1)), (4 * OUTER).expand(3, 1, 4, 4), groups=3)
    torch.testing.assert_close(upsample(x), expected)
    inside = upsample(torch.ones(1, 1, 6, 6))[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.ones_like(inside))


@pytest.mark.parametrize(
    ("batch", "group"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (8, 4), (10, 10), (12, 4)]
)
def test_standard_deviation_map(batch, group):
    """Group members stand batch / group apart; a batch that four does not divide is one group, as published."""
    x = normal(batch, 3, 2, 4)
    groups = x.numpy().reshape(group, batch // group, -1)
    spread = np.sqrt(groups.var(axis=0) + 1e-8).mean(-1)
    expected = np.tile(spread, group)[:, None, None, None] * np.ones((batch, 1, 2, 4))
    np.testing.assert_allclose(standard_deviation_map(x).numpy(), expected)


def tiny_residual(aspect_ratio=1, standard_deviation=True):
    network = ResidualNetwork({4: 3, 8: 2}, aspect_ratio, outputs=1, standard_deviation=standard_deviation)
    return randomise(network, seed=3)


@pytest.mark.parametrize("aspect_ratio", [1, 2])
def test_residual_network_against_plain_convolutions(aspect_ratio):
    network = tiny_residual(aspect_ratio).double()
    x = normal(4, 3, 8, 8 * aspect_ratio)

    def conv(x, layer, **options):
        weight = layer.weight / math.sqrt(layer.weight[0].numel())
        plain = F.conv2d(x, weight, layer.bias, **options)
        return plain if layer.bias is None else leaky_by_hand(plain)

    def filtered(x, padding):
        return F.conv2d(x, OUTER.expand(x.shape[1], 1, 4, 4), padding=padding, groups=x.shape[1])

    y = conv(x, network.from_rgb)
    for block in network.blocks:
        out = conv(filtered(conv(y, block.conv1, padding=1), 2), block.conv2, stride=2)
        y = (out + conv(filtered(y, 1), block.skip, stride=2)) / math.sqrt(2)
    spread = (y.var(0, unbiased=False) + 1e-8).sqrt().mean()
    y = torch.cat([y, spread.expand(4, 1, 4, 4 * aspect_ratio)], dim=1)
    y = conv(y, network.final_conv, padding=1).flatten(1)
    y = leaky_by_hand(F.linear(y, network.hidden.weight / math.sqrt(y.shape[1]), network.hidden.bias))
    y = F.linear(y, network.output.weight / math.sqrt(y.shape[1]), network.output.bias)
    torch.testing.assert_close(network(x), y)


def test_second_derivatives_of_the_discriminator():
    network, x = tiny_residual().double(), normal(2, 3, 8, 8).requires_grad_()
    assert gradcheck(network, (x,), fast_mode=True)
    assert gradgradcheck(network, (x,), fast_mode=True)


def test_gradient_of_the_r1_penalty_is_that_of_finite_differences():
    """With respect to the weights, as training uses it."""
    network, real = tiny_residual().double(), normal(2, 3, 8, 8).requires_grad_()

    def penalty():
        (gradient,) = torch.autograd.grad(network(real).sum(), real, create_graph=True)
        return gradient.square().sum((1, 2, 3)).mean()

    for parameter in (network.from_rgb.weight, network.blocks[0].conv2.weight):
        (gradient,) = torch.autograd.grad(penalty(), parameter)
        direction = normal(*parameter.shape, seed=5)
        with torch.no_grad():
            values = []
            for shift in (1e-6, -2e-6):
                parameter.add_(shift * direction)
                with torch.enable_grad():
                    values.append(penalty().item())
            parameter.add_(1e-6 * direction)
        expected = (values[0] - values[1]) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(r1_penalty(network(real), real), penalty())
