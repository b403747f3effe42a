"""Segment encoder: codes of blobs, appearance, and saved networks."""

import pytest
import torch
from torch import nn
from worlds.tiny_networks import randomise, tiny_network

from blobex.core.errors import BlobexError
from blobex.layout.assign import assign_segments, fit_anchors
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import score_pyramid
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN
from blobex.networks.parser import Parser
from blobex.networks.segment_encoder import Pretrained, StoredExamples, build_segment_encoder, load_pretrained
from blobex.perception.segment_reader import SegmentReader, segments_of

HEIGHT = 32
NETWORK = tiny_network(channels={8: 8, 16: 4, 32: 4}, blob_area=0.004)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return build_segment_encoder(BlobGAN(NETWORK, HEIGHT, 2), 5).eval().requires_grad_(False)


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


def test_code_against_a_plain_loop(encoder):
    image = torch.rand(1, 3, HEIGHT, 2 * HEIGHT, generator=torch.Generator().manual_seed(1)) * 2 - 1
    layout, fine = three_blobs(1), encoder.fine(image)
    pooled = []
    for features in (fine, encoder.coarse(fine)):
        height, width = features.shape[2:]
        scores = score_pyramid(layout, encoder.canvas, HEIGHT // 4)[height][0, 2]
        weights = scores / (scores.sum() + 1e-5 * height * width)
        means = torch.zeros(3, features.shape[1])
        for row in range(height):
            for column in range(width):
                point = weights[row, column] * features[0, :, row, column]
                x, y = 3 * (column / height - 2 * 0.85), 3 * (row / height - 0.5)
                means += torch.stack([point, point * x, point * y])
        pooled.append(means.flatten())
    expected = encoder.code(torch.cat(pooled)) + encoder.slot[2]
    torch.testing.assert_close(encoder.codes(image, layout)[0, 2], expected, rtol=1e-4, atol=1e-5)


def test_appearance_is_normalised(encoder):
    feature, style = encoder.appearance(torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(3)))
    assert feature.shape == (3, 4, NETWORK.feature_dim) and style.shape == (3, 4, NETWORK.style_dim)
    torch.testing.assert_close(feature.square().mean(-1), torch.ones(3, 4), atol=1e-3, rtol=0)


def some_examples(encoder):
    layout = three_blobs()
    codes = encoder.codes(torch.zeros(2, 3, HEIGHT, 2 * HEIGHT), layout)
    present = torch.ones_like(layout.xs, dtype=torch.bool)
    return StoredExamples.of(codes, layout.xs, layout.ys, layout.covs, layout.sizes[:, 1:], present)


def test_saved_and_loaded(tmp_path, encoder):
    blobgan = BlobGAN(NETWORK, HEIGHT, 2)
    examples = some_examples(encoder)
    config = {**blobgan.config(), **encoder.config, "slots": {"lane": 1, "vehicle": 2}, "examples": 2}
    whole = nn.ModuleDict({"blobgan": blobgan, "encoder": encoder, "examples": examples})
    weights.save(tmp_path, "blobgan_pretrain", config, whole)
    loaded = load_pretrained(tmp_path)
    assert all(map(torch.equal, loaded.examples.state_dict().values(), examples.state_dict().values()))
    image = torch.zeros(2, 3, HEIGHT, 2 * HEIGHT)
    assert torch.equal(loaded.encoder.codes(image, three_blobs()), encoder.codes(image, three_blobs()))
    assert loaded.slots == {"lane": 1, "vehicle": 2} and loaded.blobgan.config() == blobgan.config()


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
    encoder = build_segment_encoder(blobgan, 5).eval().requires_grad_(False)
    images = torch.nn.functional.interpolate(torch.randn(6, 3, 4, 8), (HEIGHT, 2 * HEIGHT)).clamp(-1, 1)
    segments = segments_of(parser(images))
    slots = dict.fromkeys(sorted({segment.group for of_image in segments for segment in of_image})[:3], 1)
    assert len(slots) == NETWORK.blobs
    anchors = fit_anchors(segments, slots, encoder.canvas)
    encoder.set_anchors(anchors)
    reader = SegmentReader(parser, Pretrained(blobgan, encoder, slots, StoredExamples(2, NETWORK.blobs, 5)))
    together = reader(images)
    alone = reader(images[4:5])
    for key, tensor in together.items():
        torch.testing.assert_close(tensor[4:5], getattr(alone, key), atol=1e-5, rtol=1e-4)
    expected = assign_segments(segments, slots, anchors, encoder.canvas)
    assert expected.present.any() and torch.equal(together.sizes[:, 1:], expected.sizes)
    assert torch.equal(together.xs, expected.xs) and torch.equal(together.covs, expected.covs)
