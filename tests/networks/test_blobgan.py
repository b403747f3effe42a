"""Layout network and BlobGAN: w, truncation, stored noise, files."""

import math

import pytest
import torch
import torch.nn.functional as F
from worlds.tiny_networks import HEIGHT, TINY, random_blobgan, tiny_network

from blobex.core.errors import BlobexError
from blobex.layout.blobs import KEYS
from blobex.layout.splat import splat
from blobex.networks import blobgan, weights
from blobex.networks.blobgan import BlobGAN, check_levels, from_config, load_blobgan
from blobex.networks.encoder import build_discriminator
from blobex.networks.layout_network import LayoutNetwork


def latents(count, seed=0):
    return torch.randn(count, TINY.z_dim, generator=torch.Generator().manual_seed(seed))


def same_layout(first, second, **tolerance):
    for key in KEYS:
        torch.testing.assert_close(getattr(first, key), getattr(second, key), **tolerance)


def activations(network: LayoutNetwork, z):
    """Return the input of each layer and the output of the last."""
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    inputs = []
    for layer in network.layers:
        inputs.append(x)
        out = F.linear(x, layer.weight * 0.01 / math.sqrt(x.shape[1]), layer.bias * 0.01)
        x = torch.where(out > 0, out, 0.2 * out) * math.sqrt(2)
    return [*inputs, out]


@pytest.fixture(scope="module")
def model():
    return random_blobgan()


def test_layout_network_against_its_definition(model):
    network, z = model.layout_network, latents(3)
    *inputs, output = activations(network, z)
    for mlp_idx in range(-TINY.layout_layers, 0):
        torch.testing.assert_close(network.to_w(z, mlp_idx), inputs[mlp_idx], rtol=1e-4, atol=1e-5)
        assert network.w_size(mlp_idx) == inputs[mlp_idx].shape[1]
    layout = network(z)
    blobs, feature, style = TINY.blobs, TINY.feature_dim, TINY.style_dim
    torch.testing.assert_close(layout.sizes, output[:, : blobs + 1], rtol=1e-4, atol=1e-4)

    def same(actual, raw):
        expected = raw / (raw.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)

    position = blobs + 1
    same(layout.features[:, 0], output[:, position : position + feature])
    position += feature
    same(layout.spatial_style[:, 0], output[:, position : position + style])
    position += style
    for k in range(blobs):
        part = output[:, position : position + 6 + feature + style]
        torch.testing.assert_close(layout.xs[:, k], part[:, 0].sigmoid(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layout.ys[:, k], part[:, 1].sigmoid(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layout.covs[:, k], part[:, 2:6], rtol=1e-4, atol=1e-4)
        same(layout.features[:, k + 1], part[:, 6 : 6 + feature])
        same(layout.spatial_style[:, k + 1], part[:, 6 + feature :])
        position += 6 + feature + style
    assert position == output.shape[1]


def test_no_gradient_reaches_the_shapes_as_published(model):
    w = torch.randn(2, TINY.layout_hidden, generator=torch.Generator().manual_seed(0)).requires_grad_()
    layout = model.layout_network.from_w(w)
    assert not layout.covs.requires_grad
    for key in ("xs", "ys", "sizes", "features", "spatial_style"):
        (gradient,) = torch.autograd.grad(getattr(layout, key).square().sum(), w, retain_graph=True)
        assert gradient.abs().sum() > 0, key


def test_features_without_normalisation():
    network = tiny_network(norm_features=False)
    raw, normed = random_blobgan(network), random_blobgan()
    raw.load_state_dict(normed.state_dict())
    z = latents(3)
    expected = raw.sample(z).features
    expected = expected / (expected.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(normed.sample(z).features, expected)


@pytest.mark.parametrize("mlp_idx", [-4, -3, -2, -1])
def test_layout_from_any_w(model, mlp_idx):
    z = latents(3)
    w = model.layout_network.to_w(z, mlp_idx)
    assert w.shape == (3, model.layout_network.w_size(mlp_idx))
    same_layout(model.layout_from_w(w, mlp_idx), model.sample(z), rtol=0, atol=0)


@pytest.mark.parametrize("mlp_idx", [0, 1, -5])
def test_layer_that_does_not_exist(model, mlp_idx):
    for call in (model.layout_network.w_size, lambda index: model.layout_network.to_w(latents(1), index)):
        with pytest.raises(BlobexError, match=f"mlp_idx {mlp_idx} is not from -4 to -1"):
            call(mlp_idx)


def test_sampling_does_not_depend_on_the_batch(model):
    z = latents(5)
    together = model.sample(z)
    for index in range(5):
        same_layout(model.sample(z[index : index + 1]), together[index : index + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("truncation", [0.0, 0.3, 1.0])
def test_truncation(model, truncation):
    z = latents(3)
    w = model.layout_network.to_w(z)
    expected = torch.stack([row + truncation * (model.mean_w - row) for row in w])
    same_layout(model.sample(z, truncation), model.layout_from_w(expected), rtol=1e-4, atol=1e-5)


def test_full_truncation_gives_one_image(model):
    z = latents(2)
    full, none = model.sample(z, 1.0), model.sample(z, 0.0)
    same_layout(full[:1], full[1:])
    same_layout(none, model.layout_network(z), rtol=0, atol=0)
    assert not torch.allclose(none.xs[0], none.xs[1])


@pytest.mark.parametrize("batch", [7, 500])
def test_mean_w_is_the_mean_over_the_same_latents(batch, monkeypatch):
    monkeypatch.setattr(blobgan, "LATENT_BATCH", batch)
    model = random_blobgan()
    model.compute_mean_w(600, torch.Generator().manual_seed(5))
    w = model.layout_network.to_w(latents(600, seed=5))
    torch.testing.assert_close(model.mean_w, w.double().mean(0).float(), rtol=1e-5, atol=1e-6)


def test_a_layout_has_one_rendering(model):
    layout = model.sample(latents(2))
    assert torch.equal(model.render(layout), model.render(layout))
    again = random_blobgan()
    assert torch.equal(model.render(layout), again.render(layout))
    assert [tuple(noise.shape) for noise in model.fixed_noise()] == [(1, 1, 8, 8), (1, 1, 16, 16), (1, 1, 16, 16)]


def test_rendering_draws_no_random_numbers(model):
    before = torch.random.get_rng_state()
    model.render(model.sample(latents(1)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("aspect_ratio", [1, 2])
def test_saved_and_loaded_again(tmp_path, aspect_ratio):
    model = random_blobgan(aspect_ratio=aspect_ratio)
    weights.save(tmp_path, "blobgan", {"setup": "rect", **model.config()}, model)
    again = load_blobgan(tmp_path)
    z = latents(2)
    assert torch.equal(again.render(again.sample(z, 0.5)), model.render(model.sample(z, 0.5)))
    assert again.config() == model.config() and again.width == HEIGHT * aspect_ratio
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())


def test_square_images_have_no_legacy_form():
    native, legacy = random_blobgan(), random_blobgan(tiny_network(rectangle="legacy"))
    layout = native.sample(latents(2))
    assert torch.equal(native.render(layout), legacy.render(layout))


def test_legacy_and_native_rectangles_differ():
    native, legacy = (random_blobgan(tiny_network(rectangle=name), aspect_ratio=2) for name in ("native", "legacy"))
    layout = native.sample(latents(2))
    assert not torch.allclose(native.render(layout), legacy.render(layout), atol=1e-2)


def test_network_of_a_config():
    model = BlobGAN(TINY, HEIGHT, 2)
    again = from_config(model.config())
    assert (again.height, again.width, again.network) == (HEIGHT, 2 * HEIGHT, TINY)
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.pop("height"), "height"),
        (lambda config: config.pop("network"), "network"),
        (lambda config: config.update(aspect_ratio="two"), "aspect_ratio"),
        (lambda config: config["network"].update(blobs=0), r"network\.blobs"),
    ],
)
def test_damaged_config_is_refused(change, words):
    config = BlobGAN(TINY, HEIGHT, 2).config()
    change(config)
    with pytest.raises(BlobexError, match=words):
        from_config(config)


@pytest.mark.parametrize(
    ("channels", "smallest", "height"),
    [
        ({8: 4}, 8, 16),  # a level lacks at the top
        ({16: 4}, 8, 16),  # and at the bottom
        ({8: 4, 32: 4}, 8, 32),  # and between
        ({8: 4, 16: 4, 32: 4}, 8, 16),  # one too many
        ({8: 4, 16: 4, 24: 4}, 8, 24),  # no power of two
        ({}, 4, 16),
    ],
)
def test_levels_that_do_not_fit_the_image(channels, smallest, height):
    with pytest.raises(
        BlobexError, match=rf"channels has the levels .* {smallest} and its doubles up to {height}, the height"
    ):
        check_levels(channels, smallest, height, "channels")


@pytest.mark.parametrize(("channels", "smallest", "height"), [({16: 1}, 16, 16), ({4: 1, 8: 1, 16: 1}, 4, 16)])
def test_levels_that_fit(channels, smallest, height):
    check_levels(channels, smallest, height, "channels")


def test_networks_check_their_levels():
    with pytest.raises(BlobexError, match="channels has the levels"):
        BlobGAN(TINY, 32, 1)
    with pytest.raises(BlobexError, match="discriminator_channels has the levels"):
        build_discriminator(TINY, 32, 1)


@pytest.mark.parametrize("aspect_ratio", [1, 2, 3])
def test_discriminator_takes_any_whole_aspect_ratio(aspect_ratio):
    discriminator = build_discriminator(TINY, HEIGHT, aspect_ratio)
    assert discriminator(torch.zeros(3, 3, HEIGHT, HEIGHT * aspect_ratio)).shape == (3, 1)


@pytest.mark.parametrize(("rectangle", "aspect"), [("native", 1), ("native", 2), ("legacy", 2)])
def test_scores_have_the_size_of_the_images(rectangle: str, aspect: int) -> None:
    """A legacy rectangle is splatted on the square and stretched; a native one on its own grid."""
    model = random_blobgan(tiny_network(rectangle=rectangle), aspect_ratio=aspect)
    layout = model.sample(torch.randn(2, model.z_dim, generator=torch.Generator().manual_seed(0)))
    scores = model.scores(layout)
    assert scores.shape == (2, model.network.blobs + 1, model.height, model.width)
    torch.testing.assert_close(scores.sum(1), torch.ones(2, model.height, model.width))
    square = splat(layout, model.height, model.height)
    expected = (
        square.repeat_interleave(aspect, 3) if rectangle == "legacy" else splat(layout, model.height, model.width)
    )
    torch.testing.assert_close(scores, expected)
