"""First stage of BlobGAN training: painting images of coloured blobs."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from worlds.tiny_networks import tiny_network
from worlds.tiny_world import PARAMS

from blobex.config.data import ImageSize, Run
from blobex.config.read import load_params
from blobex.config.training import Appearance
from blobex.layout.assign import BlobEllipses, layout_from_ellipses
from blobex.layout.blobs import ABSENT
from blobex.layout.splat import splat
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import fit
from blobex.training.gan import GanModule
from blobex.training.painting import PaintModule, painting_loss
from blobex.training.painting_data import PaintingData, PastedObjects

RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
SETUP = ImageSize(16, 1)
APPEARANCE = Appearance([16], texture_grid=3, texture_channels=4, edge_grid=3, edge_limit=2.0)
NETWORK = tiny_network(
    channels={8: 16, 16: 16}, feature_dim=16, style_dim=16, norm_features=False, appearance=APPEARANCE
)
PARAMETERS = load_params(PARAMS)
OPTIONS = dataclasses.replace(PARAMETERS.blobgan_pretrain, perceptual=1.0)


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


def flat(xs, ys, covs, sizes, colours):
    """Draw flat blobs in these colours, uint8."""
    images = torch.einsum("nkhw,nkc->nchw", splat(layout_from_ellipses(xs, ys, covs, sizes), 16, 16), colours)
    return ((images + 1) * 127.5).round().to(torch.uint8)


def coloured(count=64, seed=0, own=3):
    """Pictures of flat blobs in random colours on grey; of three blobs, each has the first `own`, and the last as the
    object of the next picture.
    """
    random = torch.Generator().manual_seed(seed)
    xs, ys = (torch.rand(count, 3, generator=random) for _ in range(2))
    covs = torch.tensor([0.0, 0.0, 1.0, 0.0]).repeat(count, 3, 1)
    sizes = 2 + torch.rand(count, 3, generator=random)
    colours = F.pad(2 * torch.rand(count, 3, 3, generator=random) - 1, (0, 0, 1, 0))
    images = flat(xs, ys, covs, sizes, colours)
    source = (torch.arange(count) + 1) % count

    def with_last(each):
        return torch.cat([each[:, :2], each[source, 2:]], 1)

    pasted_ellipses = BlobEllipses(*map(with_last, (xs, ys, covs, sizes)), torch.arange(3).repeat(count, 1))
    if own < 3:
        sizes = torch.where(torch.arange(3) < own, sizes, ABSENT)
        images = flat(xs, ys, covs, sizes, colours)
    last = layout_from_ellipses(*(each[source, 2:] for each in (xs, ys, covs, pasted_ellipses.sizes.roll(1, 0))))
    mask = (splat(last, 16, 16)[:, 1] > 0.5).flatten(1).numpy()
    ellipses = BlobEllipses(xs, ys, covs, sizes, torch.where(sizes > 0, torch.arange(3), -1))
    pasted = PastedObjects(
        source=source,
        shift=torch.zeros(count, 2, dtype=torch.long),
        mask=torch.from_numpy(np.packbits(mask, axis=1)),
        blobs=torch.tensor([False, False, own < 3]).repeat(count, 1),
        ellipses=pasted_ellipses,
    )
    return PaintingData(images, ellipses, pasted)


def painter(options):
    return PaintModule(options, NETWORK, SETUP, Squares(), RUN.seed)


def painted(folder, options, module=None):
    data = coloured(own=2)
    module = module or painter(options)
    fit(module, lambda step: data.batch(torch.arange(16)), options.training, RUN, folder, NullTracker())
    return module


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_it_learns_to_paint(tmp_path):
    """New images are reproduced better than by their mean colour."""
    data = coloured(256)
    options = paint_options(120)
    module = painter(options)

    def batches(step):
        return data.batch(torch.randint(0, 240, (16,), generator=torch.Generator().manual_seed(step)))

    fit(module, batches, options.training, RUN, tmp_path, NullTracker())
    images, *_, xs, ys, covs, sizes = data.batch(torch.arange(240, 256))[:9]
    target, layout = images / 127.5 - 1, layout_from_ellipses(xs, ys, covs, sizes)
    codes = module.eval().encoder.codes(target, layout)
    result = module.render(layout, codes)
    mean = target.mean((2, 3), keepdim=True)
    assert codes.shape == (16, 4, 32)
    assert F.mse_loss(result, target) < 0.4 * F.mse_loss(mean.expand_as(target), target)


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
    data = coloured(own=2)
    size = dataclasses.replace(PARAMETERS.blobgan.training, steps=30, batch_size=16)

    def painting(model, batch, random):
        return painting_loss(model, encoder, Squares(), OPTIONS, batch, random)

    losses = {}
    for weight in (0.0, 20.0):
        params = dataclasses.replace(PARAMETERS.blobgan, network=NETWORK, painting_weight=weight, training=size)
        gan = GanModule(params, SETUP, 0, painting)
        gan.model.load_state_dict(first.model.state_dict())
        fit(gan, lambda step: data.batch(torch.arange(16)), size, RUN, tmp_path / str(weight), NullTracker())
        random = torch.Generator().manual_seed(0)
        losses[weight] = painting(gan.model, data.batch(torch.arange(16)), random)[0].item()
    assert losses[20.0] < 0.7 * losses[0.0]
