"""Segment encoder: codes of blobs, appearance, and saved networks."""

import numpy as np
import pytest
import torch
from worlds.tiny_networks import randomise, tiny_network

from blobex.config.training import Appearance
from blobex.core.errors import BlobexError
from blobex.layout.assign import assign_segments, fit_anchors
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import splat
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN
from blobex.networks.parser import Parser
from blobex.networks.segment_encoder import (
    Pretrained,
    StoredExamples,
    build_segment_encoder,
    load_pretrained,
    load_pretrained_blobgan,
    save_pretrained,
)
from blobex.perception.segment_reader import SegmentReader, segments_of

HEIGHT = 32
APPEARANCE = Appearance([16], texture_grid=3, texture_channels=2, edge_grid=0, edge_limit=1.0)
NETWORK = tiny_network(channels={8: 8, 16: 4, 32: 4}, blob_area=0.004, norm_features=False, appearance=APPEARANCE)
CODE_DIM = NETWORK.feature_dim + NETWORK.style_dim


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_segment_encoder(BlobGAN(NETWORK, HEIGHT, 2)).eval().requires_grad_(False)


def three_blobs(count: int = 2) -> BlobLayout:
    """A blob at the left, one at the right, and one that is absent."""
    xs = torch.tensor([[0.15, 0.85, 0.5]]).repeat(count, 1)
    covs = torch.tensor([0.0, 0.0, 1.0, 0.0]).repeat(count, 3, 1)
    nothing = torch.zeros(count, 4, 0)
    sizes = torch.tensor([[0.0, 3, 3, -30]]).repeat(count, 1)
    return BlobLayout(xs, torch.full_like(xs, 0.5), covs, sizes, nothing, nothing)


def test_code_depends_on_the_blobs_region_only(encoder):
    image = torch.rand(2, 3, HEIGHT, 2 * HEIGHT, generator=torch.Generator().manual_seed(0)) * 2 - 1
    changed = image.clone()
    changed[:, :, :, 44:] *= -1  # far from the left blob, over the right one
    before, after = encoder.codes(image, three_blobs()), encoder.codes(changed, three_blobs())
    moved = (after - before).abs().amax((0, 2))
    assert moved[1] < 1e-4 < 2e-3 < moved[2] and moved[0] > 1e-3  # background 0, left 1, right 2
    assert moved[3] < 1e-5  # an absent blob has a constant code
    torch.testing.assert_close(before[:, 3], (encoder.slot[3] + encoder.code.bias).expand(2, -1), atol=1e-4, rtol=0)


def mean(features, scores, least):
    """Return the mean of features (C,h,w) by scores (h,w), and the sum of the scores, point by point."""
    total, mass = torch.zeros(len(features)), torch.zeros(())
    for row in range(scores.shape[0]):
        for column in range(scores.shape[1]):
            total += scores[row, column] * features[:, row, column]
            mass += scores[row, column]
    return total / (mass + least), mass / (mass + least)


def cell(height, centre, extent, points):
    """Return how much each point of a frame's side is worth at `height` positions 1/16 apart, by numpy."""
    places = np.linspace(centre - extent, centre + extent, points)
    return np.stack([np.interp(np.arange(height) / 16, places, each) for each in np.eye(points)])


def unshuffled(image):
    """Stack the pixels of blocks of 2x2, (12,h/2,w/2), with plain indices."""
    return torch.stack(
        [image[channel, row::2, column::2] for channel in range(3) for row in (0, 1) for column in (0, 1)]
    )


def test_code_against_a_plain_loop(encoder):
    image = torch.rand(1, 3, HEIGHT, 2 * HEIGHT, generator=torch.Generator().manual_seed(1)) * 2 - 1
    layout, fine = three_blobs(1), encoder.fine(unshuffled(image[0])[None])
    coarse, local = encoder.coarse(fine), encoder.local(fine)[0]
    sharp = splat(layout, 16, 32, NETWORK.blob_area)  # at half the image's size
    radius = 3**0.5 * (0.004 + 1e-5) ** 0.5  # of a round blob of size 3
    rows, columns = cell(16, 0.5, radius, 3), cell(32, 2 * 0.85, radius, 3)
    parts = []
    for row in range(3):
        for column in range(3):
            weight = torch.from_numpy(np.outer(rows[row], columns[column])).float() * sharp[0, 2]
            around, mass = mean(local, weight, 0.02)
            parts += [around, mass[None]]
    for features, scores in ((fine, sharp), (coarse, torch.nn.functional.avg_pool2d(sharp, 2))):
        parts.append(mean(features[0], scores[0, 2], 1e-5 * scores[0, 2].numel())[0])
    expected = encoder.code(torch.cat(parts)) + encoder.slot[2]
    torch.testing.assert_close(encoder.codes(image, layout)[0, 2], expected, rtol=1e-4, atol=1e-5)


def test_codes_show_where_in_the_blob_something_is(encoder):
    """Mirroring the inside of a blob changes its code: means over the whole blob would not."""
    image = torch.zeros(1, 3, HEIGHT, 2 * HEIGHT)
    image[:, :, :16] = 1.0
    upper = encoder.codes(image, three_blobs(1))
    lower = encoder.codes(image.flip(2), three_blobs(1))
    inputs = encoder.code.weight[:, : 9 * 17].unflatten(1, (3, 3, 17))
    assert (upper - lower)[0, 1].abs().max() > 0.01 and not torch.equal(inputs, inputs.flip(1))


def test_appearance_is_the_two_parts_of_a_code(encoder):
    codes = torch.arange(3 * 4 * CODE_DIM).view(3, 4, CODE_DIM)
    feature, style = encoder.appearance(codes)
    assert feature.shape == (3, 4, NETWORK.feature_dim) and style.shape == (3, 4, NETWORK.style_dim)
    assert torch.equal(torch.cat([feature, style], dim=2), codes)


def some_examples(encoder):
    layout = three_blobs()
    codes = encoder.codes(torch.zeros(2, 3, HEIGHT, 2 * HEIGHT), layout)
    present = torch.ones_like(layout.xs, dtype=torch.bool)
    return StoredExamples.of(codes, layout.xs, layout.ys, layout.covs, layout.sizes[:, 1:], present)


def test_saved_and_loaded(tmp_path, encoder):
    blobgan = BlobGAN(NETWORK, HEIGHT, 2)
    examples = some_examples(encoder)
    pretrained = Pretrained(NETWORK, encoder, {"lane": 1, "vehicle": 2}, examples)
    save_pretrained(tmp_path, "rect", blobgan, pretrained)
    loaded, renderer = load_pretrained(tmp_path), load_pretrained_blobgan(tmp_path)
    assert all(map(torch.equal, loaded.examples.state_dict().values(), examples.state_dict().values()))
    image = torch.zeros(2, 3, HEIGHT, 2 * HEIGHT)
    assert torch.equal(loaded.encoder.codes(image, three_blobs()), encoder.codes(image, three_blobs()))
    assert loaded.slots == {"lane": 1, "vehicle": 2} and loaded.network == NETWORK
    assert all(map(torch.equal, renderer.state_dict().values(), blobgan.state_dict().values()))
    with pytest.raises(BlobexError, match="no blobgan weights"):
        load_pretrained_blobgan(tmp_path / "none")


def test_error_for_a_damaged_config(tmp_path, encoder):
    blobgan = BlobGAN(NETWORK, HEIGHT, 2)
    weights.save(tmp_path, "blobgan_pretrain", {**blobgan.config(), "slots": 3}, encoder)
    with pytest.raises(BlobexError, match="dvc repro blobgan_pretrain"):
        load_pretrained(tmp_path)
    with pytest.raises(BlobexError, match="no blobgan_pretrain weights"):
        load_pretrained(tmp_path / "none")


def test_images_are_read_independently():
    """The blobs of an image do not depend on the batch."""
    torch.manual_seed(1)
    parser = randomise(Parser([8, 8], HEIGHT, 2 * HEIGHT)).eval().requires_grad_(False)
    blobgan = BlobGAN(NETWORK, HEIGHT, 2)
    encoder = build_segment_encoder(blobgan).eval().requires_grad_(False)
    images = torch.nn.functional.interpolate(torch.randn(6, 3, 4, 8), (HEIGHT, 2 * HEIGHT)).clamp(-1, 1)
    segments = segments_of(parser(images))
    slots = dict.fromkeys(sorted({segment.group for of_image in segments for segment in of_image})[:3], 1)
    assert len(slots) == NETWORK.blobs
    anchors = fit_anchors(segments, slots, encoder.canvas)
    encoder.set_anchors(anchors)
    reader = SegmentReader(parser, Pretrained(NETWORK, encoder, slots, StoredExamples(2, NETWORK.blobs, CODE_DIM)))
    together = reader(images)
    alone = reader(images[4:5])
    for key, tensor in together.items():
        torch.testing.assert_close(tensor[4:5], getattr(alone, key), atol=1e-5, rtol=1e-4)
    expected = assign_segments(segments, slots, anchors, encoder.canvas)
    assert expected.present.any() and torch.equal(together.sizes[:, 1:], expected.sizes)
    assert torch.equal(together.xs, expected.xs) and torch.equal(together.covs, expected.covs)
    maps = reader.segment_maps(images)
    assert maps.shape == (len(images), NETWORK.blobs + 1, *images.shape[2:]) and not maps[:, 0].any()
    assert torch.equal(maps[:, 1:].flatten(2).any(2), expected.present)
    assert torch.equal(reader.segment_maps(images[4:5]), maps[4:5])
    for image, blob in expected.present.nonzero().tolist():  # the centre of a blob is the mean of its pixels
        rows, columns = maps[image, blob + 1].nonzero().double().T
        assert float(rows.mean()) / HEIGHT == pytest.approx(float(expected.ys[image, blob]), abs=1e-5)
        assert float(columns.mean()) / images.shape[3] == pytest.approx(float(expected.xs[image, blob]), abs=1e-5)
