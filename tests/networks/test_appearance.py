"""Decoder of appearance codes within the generator."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from worlds.tiny_networks import random_layout, randomise, tiny_network

from blobex.config.training import Appearance, Network
from blobex.core.errors import BlobexError
from blobex.layout.blobs import BlobLayout
from blobex.layout.frames import interpolate_maps, interpolation
from blobex.layout.splat import Canvas, opacity_logits, splat
from blobex.networks.blobgan import BlobGAN

HEIGHT = 32
SETTINGS = Appearance([16], texture_grid=3, texture_channels=4, edge_grid=4, edge_limit=2.0)
NETWORK = tiny_network(
    channels={8: 8, 16: 6, 32: 4}, feature_dim=6, style_dim=6, norm_features=False, appearance=SETTINGS
)


def build(network: Network = NETWORK, aspect_ratio: int = 2) -> BlobGAN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BlobGAN(network, HEIGHT, aspect_ratio)
    return randomise(model).eval().requires_grad_(False)


def some_layout(count: int = 2) -> BlobLayout:
    return random_layout(count, 3, 6, dtype=torch.float32)


def decoder_with(model: BlobGAN, part: int, factor: float) -> BlobGAN:
    """Multiply a part of the decoder's output: 0 features, 1 styles, 2 textures, 3 edges."""
    decoder = model.generator.decoder
    assert decoder is not None
    rows = torch.arange(sum(decoder.lengths)).split(decoder.lengths)[part]
    with torch.no_grad():
        decoder.linear.weight[rows] *= factor
        decoder.linear.bias[rows] *= factor
    return model


def test_without_settings_the_generator_is_the_published_one() -> None:
    """Its weights have the same names, and decoding keeps features and styles."""
    plain = build(dataclasses.replace(NETWORK, appearance=None))
    names = set(build().state_dict())
    added = {name for name in names - set(plain.state_dict()) if name.startswith("generator.")}
    assert names - added == set(plain.state_dict())
    assert {name.split(".")[1] for name in added} == {"decoder", "textures"}
    layout = some_layout()
    decoded = plain.generator.decode(layout)
    assert decoded.features is layout.features and decoded.styles is layout.spatial_style
    assert decoded.edges is None and not decoded.textures
    torch.testing.assert_close(plain.scores(layout), splat(layout, HEIGHT, 2 * HEIGHT))


def test_decoded_features_drive_the_published_generator() -> None:
    """With textures and edges off, the image is that of the plain generator for the decoded features and styles."""
    model = decoder_with(decoder_with(build(), 2, 0.0), 3, 0.0)
    plain = build(dataclasses.replace(NETWORK, appearance=None))
    plain.load_state_dict(model.state_dict(), strict=False)
    layout = some_layout()
    decoded = model.generator.decode(layout)
    expected = plain.render(layout.replace({"features": decoded.features, "spatial_style": decoded.styles}))
    torch.testing.assert_close(model.render(layout), expected, rtol=0, atol=1e-5)
    codes = torch.cat([layout.features, layout.spatial_style], 2)
    rows = model.generator.decoder.linear(codes)[..., :12].unflatten(2, (2, 6))
    shown = torch.stack([decoded.features, decoded.styles], 2)
    torch.testing.assert_close(F.cosine_similarity(rows, shown, dim=3), torch.ones(2, 4, 2))  # only lengths differ
    for part in (decoded.features, decoded.styles):
        torch.testing.assert_close(part.square().mean(2), torch.ones(2, 4), rtol=0, atol=1e-3)


@pytest.mark.parametrize("aspect_ratio", [1, 2])
def test_edges_are_added_to_the_logits_of_blobs(aspect_ratio: int) -> None:
    model, layout = build(aspect_ratio=aspect_ratio), some_layout()
    decoded, canvas = model.generator.decode(layout), Canvas(HEIGHT, aspect_ratio)
    assert decoded.edges is not None and 0.5 < decoded.edges.abs().max() <= 2.0  # the limit
    weights = interpolation(layout, canvas, HEIGHT, 4)
    logits = opacity_logits(layout, HEIGHT, HEIGHT * aspect_ratio) + interpolate_maps(decoded.edges, weights)[:, 1:]
    clear = (1 - logits.sigmoid()).flip(1).cumprod(1).flip(1)
    opacity = torch.cat([torch.ones_like(clear[:, :1]), logits.sigmoid()], 1)
    expected = opacity * torch.cat([clear, torch.ones_like(clear[:, :1])], 1)
    torch.testing.assert_close(model.scores(layout), expected, rtol=0, atol=1e-5)


def test_zero_edges_change_no_score() -> None:
    flat, layout = decoder_with(build(), 3, 0.0), some_layout()
    none = build(dataclasses.replace(NETWORK, appearance=dataclasses.replace(SETTINGS, edge_grid=0)))
    torch.testing.assert_close(flat.scores(layout), splat(layout, HEIGHT, 2 * HEIGHT), rtol=0, atol=1e-6)
    assert torch.equal(none.scores(layout), splat(layout, HEIGHT, 2 * HEIGHT))


@pytest.mark.parametrize("part", [2, 3])
def test_textures_and_edges_are_drawn(part: int) -> None:
    layout = some_layout()
    changed = (build().render(layout) - decoder_with(build(), part, 0.0).render(layout)).abs()
    assert changed.mean() > 1e-3


def test_a_texture_is_drawn_inside_its_blob_only() -> None:
    """Changing the code of one small blob at the left leaves the right of the image alone."""
    layout = some_layout(1).replace(
        {
            "xs": torch.tensor([[0.15, 0.15, 0.85]]),
            "ys": torch.full((1, 3), 0.5),
            "covs": torch.tensor([0.0, 0.0, 1.0, 0.0]).repeat(1, 3, 1),
            "sizes": torch.tensor([[0.0, -30.0, 1.0, -30.0]]),
        }
    )
    features = layout.features.clone()
    features[:, 2] += 1.0
    model = build()
    changed = (model.render(layout.replace({"features": features})) - model.render(layout)).abs().amax(1)[0]
    assert changed[8:24, :20].max() > 0.01
    assert changed[:, 2 * HEIGHT - 8 :].max() < 1e-3 * changed.max()


def test_gradients_reach_every_part_of_the_codes() -> None:
    model, layout = build(), some_layout()
    leaves = {key: tensor.clone().requires_grad_() for key, tensor in layout.items()}
    model.render(BlobLayout(**leaves)).square().mean().backward()
    for key, leaf in leaves.items():
        gradient = leaf.grad
        assert gradient is not None and gradient.isfinite().all(), key
        reached = gradient[:, 1:] if key == "sizes" else gradient
        assert (reached.flatten(2) if reached.ndim == 3 else reached[..., None]).abs().amax(2).min() > 0, key


def test_gradient_of_codes_is_that_of_differences() -> None:
    model, layout = build().double(), random_layout(1, 3, 6)
    noise = [each.double() for each in model.fixed_noise()]

    def brightness(features: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
        image = model.generator(layout.replace({"features": features, "spatial_style": styles}), noise)
        return image.square().mean()

    inputs = layout.features.clone().requires_grad_(), layout.spatial_style.clone().requires_grad_()
    assert torch.autograd.gradcheck(brightness, inputs, fast_mode=True, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"appearance": dataclasses.replace(SETTINGS, texture_levels=[8])}, r"texture_levels has \[8\]"),
        ({"appearance": dataclasses.replace(SETTINGS, texture_levels=[16, 64])}, r"texture_levels has \[64\]"),
        ({"norm_features": True}, "norm_features false"),
        ({"rectangle": "legacy"}, "rectangle native"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(BlobexError, match=words):
        build(dataclasses.replace(NETWORK, **changes))
