"""Coarse to fine: what a GAN of half the height has learnt is what the fine one begins with."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import TINY
from tiny_world import tiny_params

from blobex.config import Blobgan, Setup
from blobex.errors import BlobexError
from blobex.networks.ops import upsample
from blobex.training.coarse import coarse_params, grow, halved
from blobex.training.gan import GanModule

FINE = Setup(32, 2)
NETWORK = dataclasses.replace(TINY, channels={8: 8, 16: 6, 32: 4}, discriminator_channels={4: 8, 8: 7, 16: 6, 32: 4})


def options() -> Blobgan:
    return dataclasses.replace(tiny_params().blobgan, network=NETWORK, coarse_steps=7)


def modules() -> tuple[GanModule, GanModule]:
    """A fine and a coarse GAN of different random weights."""
    coarse = GanModule(*coarse_params(options(), FINE), 5)
    for network in (coarse.model, coarse.average):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return GanModule(options(), FINE, 0), coarse


def test_the_coarse_gan_is_the_fine_one_without_its_finest_level() -> None:
    params, setup = coarse_params(options(), FINE)
    assert (setup.height, setup.width) == (16, 32)
    assert params.network.channels == {8: 8, 16: 6}
    assert params.network.discriminator_channels == {4: 8, 8: 7, 16: 6}
    assert params.training.steps == 7
    with pytest.raises(BlobexError, match="coarse_steps needs pictures higher than 16"):
        coarse_params(params, setup)


def test_pictures_are_halved_by_means() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = images.double().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).round()
    assert torch.equal(halved(images).double(), expected)


def test_the_fine_generator_begins_with_the_coarse_pictures_enlarged() -> None:
    """But for the scores, which the fine one averages down from twice the resolution."""
    fine, coarse = modules()
    grow(fine, coarse)
    z = torch.randn(4, NETWORK.z_dim, generator=torch.Generator().manual_seed(2))
    for large, small in ((fine.model, coarse.model), (fine.average, coarse.average)):
        with torch.no_grad():
            layout = large.sample(z)
            assert torch.equal(layout.xs, small.sample(z).xs)
            made, wanted = large.render(layout), upsample(small.render(layout))
        assert (made - wanted).square().mean() < 0.02 * wanted.var()
        shuffled = wanted.roll(1, 0)
        assert (made - shuffled).square().mean() > 5 * (made - wanted).square().mean()


def test_the_discriminator_keeps_what_comes_after_its_new_level() -> None:
    fine, coarse = modules()
    grow(fine, coarse)
    x = torch.randn(4, NETWORK.discriminator_channels[16], 16, 32, generator=torch.Generator().manual_seed(3))
    ends = []
    for discriminator, skipped in ((fine.discriminator, 1), (coarse.discriminator, 0)):
        made = x
        for block in list(discriminator.blocks)[skipped:]:
            made = block(made)
        ends.append(made)
    assert torch.equal(*ends)
    assert torch.equal(fine.discriminator.hidden.weight, coarse.discriminator.hidden.weight)


def test_the_new_level_learns() -> None:
    fine, coarse = modules()
    grow(fine, coarse)
    z = torch.randn(2, NETWORK.z_dim, generator=torch.Generator().manual_seed(4))
    picture = fine.model.render(fine.model.sample(z))
    F.mse_loss(picture, torch.zeros_like(picture)).backward()
    gradient = fine.model.generator.rgbs[-1].conv.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_other_networks_are_refused() -> None:
    fine, _ = modules()
    wider = dataclasses.replace(options(), network=dataclasses.replace(NETWORK, layout_hidden=20))
    with pytest.raises(BlobexError, match="does not fit: train both with the same"):
        grow(fine, GanModule(*coarse_params(wider, FINE), 0))
