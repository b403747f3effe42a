"""The layout flow: principal components, the path from z to w, and training."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds.tiny_networks import tiny_network
from worlds.tiny_world import PARAMS

from blobex.config.data import ImageSize, Run
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.networks.blobgan import BlobGAN, from_config
from blobex.networks.layout_network import LayoutFlow
from blobex.networks.ops import pixel_norm
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import fit
from blobex.training.gan import GanModule
from blobex.training.layout_flow import LayoutModule

RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
BLOBS, FEATURES, STYLES = 3, 6, 5
ALL = BLOBS * 7 + (BLOBS + 1) * (FEATURES + STYLES)
NETWORK = tiny_network(layout="flow", layout_hidden=64, layout_layers=2)
OPTIONS = load_params(PARAMS).blobgan_pretrain.layout


def shape(z_dim=ALL, norm_features=True):
    sizes = {"blobs": BLOBS, "feature_dim": FEATURES, "style_dim": STYLES, "z_dim": z_dim}
    return dataclasses.replace(NETWORK, **sizes, norm_features=norm_features)


def layouts(count=512, seed=0):
    """Return random layouts and the mask of present blobs; exactly one of the first two is present."""
    random = torch.Generator().manual_seed(seed)
    either = torch.rand(count, generator=random) < 0.5
    present = torch.stack([either, ~either, torch.rand(count, generator=random) < 0.8], dim=1)
    xs, ys = 0.2 + 0.6 * torch.rand(2, count, BLOBS, generator=random)
    ratio, angle = torch.rand(2, count, BLOBS, generator=random)
    covs = torch.stack([2 * ratio, -2 * ratio, (3 * angle).cos(), (3 * angle).sin()], dim=2)
    sizes = torch.where(present, 1 + 3 * torch.rand(count, BLOBS, generator=random), ABSENT)
    appearance = torch.randn(count, BLOBS + 1, FEATURES + STYLES, generator=random)
    features, styles = (pixel_norm(part, 1e-5) for part in appearance.split([FEATURES, STYLES], dim=2))
    return BlobLayout(xs, ys, covs, F.pad(sizes, (1, 0)), features, styles), present


def fitted(z_dim=ALL, aspect_ratio=1):
    flow = LayoutFlow(shape(z_dim), aspect_ratio)
    flow.fit(*layouts())
    return flow


@pytest.mark.parametrize("aspect_ratio", [1, 2])
def test_all_components_reproduce_the_layout(aspect_ratio):
    flow = fitted(aspect_ratio=aspect_ratio)
    layout, present = layouts(64, seed=1)
    back = flow.from_w(flow.project(layout, present))
    seen = F.pad(present, (1, 0), value=True)
    for key in ("xs", "ys", "sizes"):
        expected, actual = getattr(layout, key), getattr(back, key)
        mask = seen if key == "sizes" else present
        torch.testing.assert_close(actual[mask], expected[mask], rtol=1e-3, atol=1e-3)
    assert (back.sizes[:, 1:][~present] < ABSENT + 0.01).all()
    axes, actual = layout.covs[present], back.covs[present]
    torch.testing.assert_close(actual[:, :2], axes[:, :2], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close((axes[:, 2:] * actual[:, 2:]).sum(1).abs(), torch.ones(len(axes)), rtol=1e-4, atol=1e-4)
    for key in ("features", "spatial_style"):
        torch.testing.assert_close(getattr(back, key)[seen], getattr(layout, key)[seen], rtol=1e-2, atol=1e-2)


def test_components_against_numpy():
    """The numbers of a layout written out blob by blob, and their principal components by a full decomposition."""
    layout, present = layouts()
    rows = []
    for image in range(len(layout)):
        row, appearance = [], []
        for blob in range(BLOBS):
            cov, visible = layout.covs[image, blob].tolist(), bool(present[image, blob])
            angle = 2 * np.arctan2(cov[3], cov[2])
            where = (12 * layout.xs[image, blob].item(), 12 * layout.ys[image, blob].item())
            rest = (
                1.5 * cov[0] / 2,
                np.cos(angle),
                np.sin(angle),
                max(layout.sizes[image, blob + 1].item(), 0) ** 0.5,
            )
            row += [2.0 * visible, *(value if visible else np.nan for value in (*where, *rest))]
        for entry in range(BLOBS + 1):
            visible = entry == 0 or bool(present[image, entry - 1])
            values = [*layout.features[image, entry].tolist(), *layout.spatial_style[image, entry].tolist()]
            appearance += [0.15 * value if visible else np.nan for value in values]
        rows.append(row + appearance)
    numbers = np.array(rows)
    numbers = np.where(np.isnan(numbers), np.nanmean(numbers, axis=0), numbers)  # absent blobs have the mean values
    variances = np.linalg.eigvalsh(np.cov(numbers.T, bias=True))[::-1][:16]
    w = fitted(z_dim=16).project(layout, present).double()
    assert w.mean(0).abs().max() < 1e-5
    covariance = np.cov(w.T.numpy(), bias=True)
    np.testing.assert_allclose(np.diag(covariance), variances / variances.mean(), rtol=0.02)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.01


def test_batch_does_not_matter():
    flow, (layout, present) = fitted(z_dim=16), layouts(5, seed=2)
    single = [flow.project(layout[i : i + 1], present[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(torch.cat(single), flow.project(layout, present), rtol=1e-5, atol=1e-5)
    z = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.cat([flow.to_w(row) for row in z.split(1)]), flow.to_w(z), rtol=1e-5, atol=1e-5)


class Spiral(nn.Module):
    """x' = (1 + t) x, so that x(1) = exp(3/2) x(0)."""

    def forward(self, x, t):
        return (1 + t)[:, None] * x


def test_z_follows_the_differential_equation():
    flow = LayoutFlow(shape(z_dim=8), 1)
    flow.velocity = Spiral()
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.to_w(z), np.exp(1.5) * pixel_norm(z), rtol=3e-3, atol=1e-4)


def test_gradients_reach_w_but_not_z():
    flow = fitted(z_dim=16)
    z = torch.randn(4, 16, requires_grad=True)
    assert not flow(z).xs.requires_grad
    w = flow.to_w(z).requires_grad_(True)
    layout = flow.from_w(w)
    sum(tensor.square().sum() for _, tensor in layout.items()).backward()
    assert w.grad.isfinite().all() and (w.grad != 0).any(1).all()


def test_invalid_arguments_are_refused():
    flow = LayoutFlow(shape(z_dim=16), 1)
    for call in (flow.w_size, lambda index: flow.to_w(torch.zeros(1, 16), index), lambda index: flow.from_w(0, index)):
        with pytest.raises(BlobexError, match="set mlp_idx to -1"):
            call(-2)
    with pytest.raises(BlobexError, match=f"z_dim is {ALL + 1} but a layout has {ALL} numbers"):
        LayoutFlow(shape(z_dim=ALL + 1), 1)


def training(steps, every=100):
    checkpoint = dataclasses.replace(OPTIONS.checkpoint, every_n_steps=every)
    changes = {"batch_size": 128, "halve_every": 500, "learning_rate": 0.003}
    return dataclasses.replace(OPTIONS, steps=steps, checkpoint=checkpoint, **changes)


def trained(folder, options, flow=None):
    flow = flow or LayoutFlow(shape(z_dim=16), 1)
    flow.fit(*layouts())
    w = flow.project(*layouts())
    module = LayoutModule(flow, options, RUN.seed)

    def batches(step):
        return (w[torch.randint(0, len(w), (128,), generator=torch.Generator().manual_seed(step))],)

    fit(module, batches, options, RUN, folder, NullTracker())
    return module


@pytest.mark.slow
def test_flow_learns_the_distribution_of_layouts(tmp_path):
    """One of two exclusive blobs; presence and positions are distributed as in the training data."""
    torch.manual_seed(0)
    flow = trained(tmp_path, training(1500)).flow
    layout = flow(torch.randn(1000, 16, generator=torch.Generator().manual_seed(1)))
    present = layout.sizes[:, 1:] > ABSENT / 2
    both, none = (present[:, 0] & present[:, 1]).float().mean(), (~present[:, :2]).all(1).float().mean()
    assert both < 0.05 and none < 0.05
    assert (present.float().mean(0) - torch.tensor([0.5, 0.5, 0.8])).abs().max() < 0.07
    real, real_present = layouts(1000, seed=5)
    for blob in range(BLOBS):
        actual, expected = layout.xs[present[:, blob], blob], real.xs[real_present[:, blob], blob]
        assert abs(actual.mean() - expected.mean()) < 0.03 and abs(actual.std() / expected.std() - 1) < 0.15


def test_stopped_and_resumed_equals_unbroken(tmp_path):
    def start():
        torch.manual_seed(0)
        return LayoutFlow(shape(z_dim=16), 1)

    unbroken = trained(tmp_path / "one", training(4, every=2), start()).state_dict()
    trained(tmp_path / "two", training(2, every=2), start())
    resumed = trained(tmp_path / "two", training(4, every=2), start()).state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in unbroken.items())


def test_gan_training_does_not_change_the_flow(tmp_path):
    params = load_params(PARAMS).blobgan
    training = dataclasses.replace(params.training, steps=2, batch_size=4)
    module = GanModule(dataclasses.replace(params, network=NETWORK, training=training), ImageSize(16, 1), 0)
    before = {name: tensor.clone() for name, tensor in module.model.layout_network.state_dict().items()}
    painter = {name: tensor.clone() for name, tensor in module.model.generator.state_dict().items()}
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    fit(module, lambda step: (images,), training, RUN, tmp_path, NullTracker())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.average.layout_network.state_dict().items())
    assert any(not torch.equal(tensor, painter[name]) for name, tensor in module.model.generator.state_dict().items())


def test_blobgan_with_a_flow_saved_and_loaded():
    model = BlobGAN(NETWORK, 16, 2)
    again = from_config(model.config())
    again.load_state_dict(model.state_dict())
    z = torch.randn(2, NETWORK.z_dim)
    assert torch.equal(again.render(again.sample(z)), model.render(model.sample(z)))
    assert model.mean_w.shape == (NETWORK.z_dim,)
