"""The first lessons of a BlobGAN: painting and laying out, on pictures of coloured blobs."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import tiny_network
from tiny_world import PARAMS

from blobex.config.data import Run, Setup
from blobex.config.read import load_params
from blobex.layout.splat import splat
from blobex.networks.blobgan import BlobGAN
from blobex.networks.segment_encoder import build_segment_encoder
from blobex.segments.place import placed
from blobex.training.blobgan_pretrain import LayoutModule, PaintModule, painting_loss
from blobex.training.fit import fit
from blobex.training.gan import GanModule
from blobex.training.tracker import NullTracker

RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
SETUP = Setup(16, 1)
NETWORK = tiny_network(channels={8: 16, 16: 16}, feature_dim=16, style_dim=16)
PARAMETERS = load_params(PARAMS)
OPTIONS = dataclasses.replace(PARAMETERS.blobgan_pretrain, code_dim=8)


class Squares:
    """Mean squared difference, in the place of a perceptual distance."""

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


def layout_options(steps, every=100):
    return dataclasses.replace(OPTIONS, layout=training(OPTIONS.layout, steps=steps, batch_size=64, every=every))


def coloured(count=64, seed=0):
    """Pictures of three flat blobs in random colours on grey, and where the blobs are."""
    random = torch.Generator().manual_seed(seed)
    xs, ys = (torch.rand(count, 3, generator=random) for _ in range(2))
    covs = torch.tensor([0.0, 0.0, 1.0, 0.0]).repeat(count, 3, 1)
    sizes = 2 + torch.rand(count, 3, generator=random)
    colours = F.pad(2 * torch.rand(count, 3, 3, generator=random) - 1, (0, 0, 1, 0))
    images = torch.einsum("nkhw,nkc->nchw", splat(placed(xs, ys, covs, sizes), 16, 16), colours)
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
    """Unseen pictures come out nearer than the nearest one-coloured pictures are."""
    data = coloured(256)
    options = paint_options(120)
    module = painter(options)

    def batches(step):
        chosen = torch.randint(0, 240, (16,), generator=torch.Generator().manual_seed(step))
        return tuple(tensor[chosen] for tensor in data)

    fit(module, batches, options.training, RUN, tmp_path, NullTracker())
    images, *places = (tensor[240:] for tensor in data)
    wanted = images / 127.5 - 1
    result, layout = module.eval().paint(wanted, placed(*places))
    flat = wanted.mean((2, 3), keepdim=True)
    assert F.mse_loss(result, wanted) < 0.4 * F.mse_loss(flat.expand_as(wanted), wanted)
    assert torch.equal(layout.xs, places[0]) and layout.features.shape == (16, 4, 16)


def test_stopped_and_resumed_it_ends_alike(tmp_path):
    unbroken = weights(painted(tmp_path / "one", paint_options(4, every=2)))
    painted(tmp_path / "two", paint_options(2, every=2))
    resumed = weights(painted(tmp_path / "two", paint_options(4, every=2)))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in unbroken.items())


def test_the_gan_goes_on_painting(tmp_path):
    """With its weight, the painting loss stays far below that of a GAN that only has to convince."""
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


@pytest.fixture(scope="module")
def layouts():
    """Codes and places of 512 layouts, and the networks that are to learn them."""
    torch.manual_seed(0)
    blobgan = BlobGAN(NETWORK, 16, 1)
    encoder = build_segment_encoder(blobgan, OPTIONS.code_dim).eval().requires_grad_(False)
    _, *places = coloured(512)
    present = torch.rand(512, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    codes = torch.randn(512, 4, OPTIONS.code_dim, generator=torch.Generator().manual_seed(2))
    return blobgan, encoder, (codes, *places, present)


def test_a_layout_that_is_right_has_no_error(layouts):
    blobgan, encoder, batch = layouts
    module = LayoutModule(layout_options(1), blobgan, encoder, batch[0], 0)
    feature, style = encoder.looks(batch[0])
    right = placed(*batch[1:5]).replace({"features": feature, "spatial_style": style})
    assert module.error(batch, right).abs().max() < 1e-6
    pixel = right.replace({"xs": right.xs + 1 / 64})
    expected = 0.5 * batch[5].sum(1)  # one deviation off, of every blob that is there
    torch.testing.assert_close(module.error(batch, pixel), expected.float(), rtol=1e-3, atol=1e-3)
    turned = right.replace({"covs": right.covs * torch.tensor([1.0, 1, -1, -1])})
    assert module.error(batch, turned).abs().max() < 1e-6  # the same ellipses
    assert torch.allclose(module.read(batch)[0], module.read((batch[0], *batch[1:3], turned.covs, *batch[4:]))[0])
    restyled = right.replace({"spatial_style": right.spatial_style * torch.tensor([1.0, 1, 1, 1.5])[:, None]})
    assert (module.error(batch, restyled)[~batch[5][:, 2]] < 1e-6).all()  # nobody sees an absent blob


def test_it_learns_to_lay_out(layouts, tmp_path):
    """Layouts come back from their z with a fraction of the error of the mean layout's."""
    blobgan, encoder, batch = layouts
    options = layout_options(150)
    module = LayoutModule(options, blobgan, encoder, batch[0], 0)
    fit(module, lambda step: batch, options.layout, RUN, tmp_path, NullTracker())
    mean, log_variance = module.read(batch)
    with torch.no_grad():
        error = module.error(batch, module.layout_network(mean)).mean()
        features, styles = encoder.looks(batch[0])
        every = placed(*batch[1:5]).replace({"features": features, "spatial_style": styles})
        average = every.map(lambda tensor: tensor.mean(0, keepdim=True).expand_as(tensor))
        plain = module.error(batch, average).mean()
    assert error < 0.6 * plain
    assert log_variance.mean() < 0  # z tells something
