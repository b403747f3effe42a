"""StyleGAN2 synthesis with style maps, against an implementation that goes from image to image."""

import math

import pytest
import torch
import torch.nn.functional as F
from worlds.tiny_networks import TINY, random_blobgan, random_layout, tiny_network

from blobex.layout.splat import Canvas, score_pyramid
from blobex.networks.generator import Generator, ModulatedConv, SpatialModulation

OUTER = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])).double() / 64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(layer, x):
    return F.linear(x, layer.weight / math.sqrt(layer.weight.shape[1]), layer.bias)


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def filtered(x, padding, gain):
    return F.conv2d(x, (gain * OUTER).expand(x.shape[1], 1, 4, 4), padding=padding, groups=x.shape[1])


def zero_stuffed(x):
    out = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    out[:, :, ::2, ::2] = x
    return out


def naive_conv(conv, x, scores, style):
    """One image: x (C,h,w), scores (K+1,h,w), style (K+1,D); no bias.

    The style of a point is the mean of the blobs' styles, weighted by their scores; where the layer demodulates, it is
    divided by its root mean square over channels and each filter by its norm.
    """
    styles = torch.einsum("khw,kc->chw", scores, linear(conv.modulation.affine, style))
    weight = conv.weight / math.sqrt(conv.weight[0].numel())
    if conv.demodulate:
        styles = styles / (styles.square().mean(0, keepdim=True) + 1e-8).sqrt()
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    x = (x * styles)[None]
    if conv.up:  # a transposed convolution of stride 2 is a convolution of zero-stuffed x with the flipped filter
        full = F.conv2d(F.pad(zero_stuffed(x), (2, 1, 2, 1)), weight.flip(2, 3))
        return filtered(full, 1, 4.0)[0]
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)[0]


def naive_layer(layer, x, scores, style, noise):
    out = naive_conv(layer.conv, x, scores, style)
    return leaky(out + layer.noise_weight * noise + layer.bias[:, None, None])


def naive_rgb(layer, x, scores, style, below):
    image = naive_conv(layer.conv, x, scores, style) + layer.bias[:, None, None]
    if below is None:
        return image
    return image + filtered(F.pad(zero_stuffed(below[None]), (2, 1, 2, 1)), 0, 4.0)[0]


def naive_generator(generator, layout, noise):
    """One image after the other."""
    pyramid = score_pyramid(layout, generator.canvas, generator.heights[0])
    images = []
    for n in range(len(layout)):
        style, maps = layout.spatial_style[n], [noise_map[n, 0] for noise_map in noise]
        scores = pyramid[generator.heights[0]][n]
        x = torch.einsum("khw,kc->chw", scores, layout.features[n])
        x = naive_layer(generator.first, x, scores, style, maps[0])
        image = naive_rgb(generator.first_rgb, x, scores, style, None)
        for level, height in enumerate(generator.heights[1:]):
            x = naive_layer(generator.ups[level], x, scores, style, maps[1 + 2 * level])
            scores = pyramid[height][n]
            x = naive_layer(generator.layers[level], x, scores, style, maps[2 + 2 * level])
            image = naive_rgb(generator.rgbs[level], x, scores, style, image)
        images.append(image)
    return torch.stack(images)


def layouts(count, dtype=torch.float64):
    layout = random_layout(count, TINY.blobs, TINY.feature_dim, dtype=dtype)
    return layout.replace({"spatial_style": layout.spatial_style[..., : TINY.style_dim]})


@pytest.mark.parametrize(("aspect_ratio", "rectangle"), [(1, "native"), (2, "native"), (2, "legacy")])
@pytest.mark.parametrize("channels", [{8: 8, 16: 4}, {4: 5, 8: 4, 16: 3}])
def test_image_against_a_naive_implementation(aspect_ratio, rectangle, channels):
    network = tiny_network(channels=channels, size_in=min(channels), rectangle=rectangle)
    model = random_blobgan(network, aspect_ratio=aspect_ratio).double()
    layout = layouts(2)
    noise = [normal(2, 1, *shape, seed=index) for index, shape in enumerate(model.generator.noise_shapes())]
    image = model.render(layout, noise)
    assert image.shape == (2, 3, 16, 16 * aspect_ratio)
    torch.testing.assert_close(image, naive_generator(model.generator, layout, noise), rtol=1e-8, atol=1e-8)


def test_style_map_of_a_point_of_one_blob_is_its_style():
    modulation = SpatialModulation(5, 7, normalise=False).double()
    scores = F.one_hot(torch.tensor([[[0, 2], [1, 2]]]), 3).double().permute(0, 3, 1, 2)
    style = normal(1, 3, 5)
    expected = linear(modulation.affine, style[0])
    maps = modulation(torch.ones(1, 7, 2, 2).double(), scores, style)[0]
    for (row, column), blob in {(0, 0): 0, (0, 1): 2, (1, 0): 1, (1, 1): 2}.items():
        torch.testing.assert_close(maps[:, row, column], expected[blob])


def test_demodulated_styles_have_unit_mean_square():
    """Whatever the scores and the number of blobs."""
    modulation = SpatialModulation(5, 7, normalise=True).double()
    scores = normal(2, 9, 4, 6).softmax(1)
    power = modulation(torch.ones(2, 7, 4, 6).double(), scores, 10 * normal(2, 9, 5)).square().mean(1)
    torch.testing.assert_close(power, torch.ones_like(power), rtol=1e-6, atol=1e-6)


def test_demodulation_removes_the_scale_of_weights_and_styles():
    conv = ModulatedConv(4, 3, 3, 5, demodulate=True, up=False).double()
    x, scores, style, bias = normal(2, 4, 6, 6), normal(2, 3, 6, 6).softmax(1), normal(2, 3, 5), normal(3)
    before = conv(x, scores, style, bias)
    with torch.no_grad():
        for tensor in (conv.weight, conv.modulation.affine.weight, conv.modulation.affine.bias):
            tensor.mul_(7)
    torch.testing.assert_close(conv(x, scores, style, bias), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aspect_ratio", [1, 2])
def test_image_does_not_depend_on_the_batch(aspect_ratio):
    model = random_blobgan(aspect_ratio=aspect_ratio)
    layout = layouts(4, torch.float32)
    together = model.render(layout)
    for index in range(4):
        torch.testing.assert_close(model.render(layout[index : index + 1])[0], together[index], rtol=1e-4, atol=1e-5)


def test_size_of_the_background_does_not_matter():
    model, layout = random_blobgan(), layouts(2, torch.float32)
    sizes = layout.sizes.clone()
    sizes[:, 0] = float("nan")
    assert torch.equal(model.render(layout.replace({"sizes": sizes})), model.render(layout))


def test_absent_blobs_do_not_matter():
    """Feature and style of an invisible blob do not matter; those of the background do."""
    model, layout = random_blobgan(), layouts(1, torch.float32)
    sizes = torch.full_like(layout.sizes, -100)
    hidden = layout.replace({"sizes": sizes})
    features, style = layout.features.clone(), layout.spatial_style.clone()
    features[:, 1:] += 5
    style[:, 1:] += 5
    image = model.render(hidden)
    torch.testing.assert_close(model.render(hidden.replace({"features": features, "spatial_style": style})), image)
    features[:, 0] += 5
    assert not torch.allclose(model.render(hidden.replace({"features": features})), image, atol=1e-2)


def test_gradient_reaches_every_key():
    model = random_blobgan(aspect_ratio=2)
    layout = layouts(2, torch.float32).map(lambda tensor: tensor.clone().requires_grad_())
    model.render(layout).square().sum().backward()
    for key, tensor in layout.items():
        read = tensor.grad[:, 1:] if key == "sizes" else tensor.grad
        assert read.isfinite().all() and read.abs().amax() > 0, key
    assert (layout.sizes.grad[:, 0] == 0).all()


@pytest.mark.parametrize("channels", [{8: 8, 16: 4}, {4: 3, 8: 3, 16: 3, 32: 2}])
def test_noise_shapes(channels):
    generator = Generator(Canvas(max(channels), 2), channels, 6, 5)
    heights = sorted(channels)
    assert generator.noise_shapes()[0] == (heights[0], 2 * heights[0])
    assert generator.noise_shapes()[1:] == [(height, 2 * height) for height in heights[1:] for _ in "ab"]
    noise = generator.random_noise(2, torch.Generator().manual_seed(0))
    assert [tuple(tensor.shape) for tensor in noise] == [(2, 1, *shape) for shape in generator.noise_shapes()]


def test_noise_maps_matter_and_are_seeded():
    model, layout = random_blobgan(), layouts(2, torch.float32)
    noise = [model.generator.random_noise(2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    first, again, other = (model.render(layout, maps) for maps in noise)
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)


def test_bfloat16_stays_near_float32():
    model, layout = random_blobgan(aspect_ratio=2), layouts(2, torch.float32)
    exact = model.render(layout)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.render(layout)
    assert rough.dtype == torch.float32
    assert ((rough - exact).norm() / exact.norm()).item() < 0.03


def test_gradients_of_the_normalised_style_in_closed_form():
    modulation = SpatialModulation(3, 4, normalise=True).double()
    x, scores, style = normal(2, 4, 3, 5), normal(2, 3, 3, 5).softmax(1), normal(2, 3, 3)
    inputs = [tensor.requires_grad_() for tensor in (x, scores, style)]
    assert torch.autograd.gradcheck(modulation, inputs)
