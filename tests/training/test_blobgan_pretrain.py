"""First stage of BlobGAN training: painting images of coloured blobs."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from worlds.tiny_networks import tiny_network
from worlds.tiny_world import PARAMS

from blobex.config.data import ImageSize, Run
from blobex.config.read import load_params
from blobex.layout.assign import layout_from_ellipses
from blobex.layout.splat import splat
from blobex.tracking.tracker import NullTracker
from blobex.training.blobgan_pretrain import PaintModule, painting_loss
from blobex.training.fit import fit
from blobex.training.gan import GanModule

RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
SETUP = ImageSize(16, 1)
NETWORK = tiny_network(channels={8: 16, 16: 16}, feature_dim=16, style_dim=16)
PARAMETERS = load_params(PARAMS)
OPTIONS = dataclasses.replace(PARAMETERS.blobgan_pretrain, code_dim=8)


class Squares:
    """Mean squared difference instead of a perceptual distance."""

    def embed(self, x):
        return x

    def distance_to(self, embedded, x):
        return (embedded - x).square().flatten(1).mean(1)


def training(part, **changes):
    checkpoint = dataclasses.replace(part.checkpoint, every_n_steps=changes.pop("every", 100))
    return dataclasses.replace(part, checkpoint=checkpoint, **changes)


def paint_options(steps, every=100):
    part = training(OPTIONS.training, steps=steps, batch_size=16, halve_every=40, every=every)
    return dataclasses.replace(OPTIONS, training=part)


def coloured(count=64, seed=0):
    """Pictures of three flat blobs in random colours on grey, and where the blobs are."""
    random = torch.Generator().manual_seed(seed)
    xs, ys = (torch.rand(count, 3, generator=random) for _ in range(2))
    covs = torch.tensor([0.0, 0.0, 1.0, 0.0]).repeat(count, 3, 1)
    sizes = 2 + torch.rand(count, 3, generator=random)
    colours = F.pad(2 * torch.rand(count, 3, 3, generator=random) - 1, (0, 0, 1, 0))
    images = torch.einsum("nkhw,nkc->nchw", splat(layout_from_ellipses(xs, ys, covs, sizes), 16, 16), colours)
    return ((images + 1) * 127.5).round().to(torch.uint8), xs, ys, covs, sizes


def painter(options):
    return PaintModule(options, NETWORK, SETUP, Squares(), RUN.seed)


def painted(folder, options, module=None):
    data = coloured()
    module = module or painter(options)
    fit(module, lambda step: tuple(t[:16] for t in data), options.training, RUN, folder, NullTracker())
    return module


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_it_learns_to_paint(tmp_path):
    """New images are reproduced better than by their mean colour."""
    data = coloured(256)
    options = paint_options(120)
    module = painter(options)

    def batches(step):
        indices = torch.randint(0, 240, (16,), generator=torch.Generator().manual_seed(step))
        return tuple(tensor[indices] for tensor in data)

    fit(module, batches, options.training, RUN, tmp_path, NullTracker())
    images, *ellipses = (tensor[240:] for tensor in data)
    target = images / 127.5 - 1
    result, layout = module.eval().paint(target, layout_from_ellipses(*ellipses))
    flat = target.mean((2, 3), keepdim=True)
    assert F.mse_loss(result, target) < 0.4 * F.mse_loss(flat.expand_as(target), target)
    assert torch.equal(layout.xs, ellipses[0]) and layout.features.shape == (16, 4, 16)


def test_stopped_and_resumed_equals_unbroken(tmp_path):
    unbroken = weights(painted(tmp_path / "one", paint_options(4, every=2)))
    painted(tmp_path / "two", paint_options(2, every=2))
    resumed = weights(painted(tmp_path / "two", paint_options(4, every=2)))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in unbroken.items())


@pytest.mark.slow
def test_painting_loss_keeps_the_gan_painting(tmp_path):
    """With the painting loss, the painting error stays far below that of a plain GAN."""
    options = paint_options(100)
    first = painted(tmp_path / "painter", options)
    encoder = first.encoder.eval().requires_grad_(False)
    data = coloured()
    size = dataclasses.replace(PARAMETERS.blobgan.training, steps=30, batch_size=16)

    def painting(model, batch, random):
        return painting_loss(model, encoder, Squares(), OPTIONS, batch, random)

    losses = {}
    for weight in (0.0, 20.0):
        params = dataclasses.replace(PARAMETERS.blobgan, network=NETWORK, painting_weight=weight, training=size)
        gan = GanModule(params, SETUP, 0, painting)
        gan.model.load_state_dict(first.model.state_dict())
        fit(gan, lambda step: tuple(t[:16] for t in data), size, RUN, tmp_path / str(weight), NullTracker())
        random = torch.Generator().manual_seed(0)
        losses[weight] = painting(gan.model, tuple(t[:16] for t in data), random)[0].item()
    assert losses[20.0] < 0.7 * losses[0.0]
