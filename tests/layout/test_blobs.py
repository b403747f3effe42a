"""The layout record, its distance, and the jitter of training."""

import math

import pytest
import torch
from worlds.tiny_networks import random_layout

from blobex.config.training import Jitter
from blobex.core.errors import BlobexError
from blobex.layout.blobs import BACKGROUND_KEYS, KEYS, blob_distance, concatenate, from_dict, jitter
from blobex.layout.splat import splat

AMOUNT = Jitter(position=0.04, size=0.5, angle=0.1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def angle(covs):
    return torch.atan2(covs[..., 3], covs[..., 2])


def test_keys_and_sizes():
    layout = random_layout(2, 5, 3)
    assert (len(layout), layout.blobs) == (2, 5)
    assert [key for key, _ in layout.items()] == list(KEYS) == list(layout.as_dict())
    for key, tensor in layout.items():
        assert tensor.shape[:2] == (2, 6 if key in BACKGROUND_KEYS else 5)


def test_from_dict_inverts_as_dict():
    layout = random_layout(2, 5, 3)
    again = from_dict(layout.as_dict())
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(layout.items(), again.items(), strict=True))


@pytest.mark.parametrize(
    ("tensors", "name"),
    [
        ({key: torch.zeros(1) for key in KEYS if key != "covs"}, "covs"),
        ({**{key: torch.zeros(1) for key in KEYS}, "depth": torch.zeros(1)}, "depth"),
        ({}, "features"),
    ],
)
def test_error_names_the_wrong_key(tensors, name):
    with pytest.raises(BlobexError, match=rf"check .*{name}"):
        from_dict(tensors)


def test_indexing_keeps_the_batch_and_concatenation_undoes_it():
    layout = random_layout(4, 3, 2)
    assert len(layout[1:2]) == 1 and len(layout[[3, 1]]) == 2 and len(layout[torch.tensor([0])]) == 1
    assert len(layout[torch.tensor([True, False, False, True])]) == 2
    again = concatenate([layout[:1], layout[1:3], layout[3:]])
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(layout.items(), again.items(), strict=True))


def test_replace_detach_and_map():
    layout = random_layout(2, 3, 2).map(lambda tensor: tensor.requires_grad_())
    moved = layout.replace({"xs": torch.ones(2, 3)})
    assert moved.xs.sum() == 6 and moved.ys is layout.ys
    assert not any(tensor.requires_grad for _, tensor in layout.detach().items())
    assert layout.to("cpu").xs.requires_grad


def test_no_jitter_changes_nothing():
    layout = random_layout(3, 4, 2)
    still = jitter(layout, Jitter(0, 0, 0), seeded())
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(layout.items(), still.items(), strict=True))


def test_jitter_is_uniform_within_its_amounts():
    layout = random_layout(200, 6, 2)
    moved = jitter(layout, AMOUNT, seeded())
    turned = torch.remainder(angle(moved.covs) - angle(layout.covs) + math.pi, 2 * math.pi) - math.pi
    for change, limit in [
        (moved.xs - layout.xs, AMOUNT.position),
        (moved.ys - layout.ys, AMOUNT.position),
        (moved.sizes - layout.sizes, AMOUNT.size),
        (turned, AMOUNT.angle),
    ]:
        assert change.abs().max() <= limit + 1e-7
        # A uniform change has mean 0 and standard deviation limit / sqrt(3); 1200 samples settle both to a few percent.
        assert change.mean().abs() < 0.1 * limit
        assert change.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1)
    assert torch.equal(moved.features, layout.features) and torch.equal(moved.spatial_style, layout.spatial_style)


def test_jitter_rotates_the_direction_and_keeps_the_shape():
    """Each vector keeps its length and aspect logits, in whichever quadrant it points."""
    directions = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    covs = torch.stack([directions, -directions, 3 * directions.cos(), 3 * directions.sin()], dim=-1)[None]
    layout = random_layout(1, 16, 2).replace({"covs": covs})
    moved = jitter(layout, Jitter(0, 0, 0.1), seeded(1))
    turned = torch.remainder(angle(moved.covs) - angle(covs) + math.pi, 2 * math.pi) - math.pi
    expected = torch.stack([3 * (angle(covs) + turned).cos(), 3 * (angle(covs) + turned).sin()], dim=-1)
    torch.testing.assert_close(moved.covs[..., 2:], expected)
    assert torch.equal(moved.covs[..., :2], covs[..., :2])
    assert turned.abs().min() > 0 and turned.abs().max() <= 0.1


def test_jitter_of_axis_aligned_directions_is_finite():
    """arccos of a cosine just above one would be NaN here."""
    axes = torch.tensor([[0.0, 0, 1, 0], [0, 0, -1, 0], [0, 0, 0, 1], [0, 0, 0, -1], [0, 0, 1e-8, 0], [0, 0, 0, 0]])
    layout = random_layout(1, 6, 2, dtype=torch.float32).replace({"covs": axes[None].requires_grad_()})
    for seed in range(20):
        moved = jitter(layout, AMOUNT, seeded(seed))
        assert all(tensor.isfinite().all() for _, tensor in moved.items())
        (gradient,) = torch.autograd.grad(splat(moved, 8, 8).square().sum(), layout.covs)
        assert gradient.isfinite().all()


def test_jitter_is_seeded():
    layout = random_layout(2, 3, 2)
    first, again, other = (jitter(layout, AMOUNT, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.xs, again.xs) and torch.equal(first.covs, again.covs)
    assert not torch.equal(first.xs, other.xs)


def test_blob_distance_by_hand():
    """A change of d in a share s of a key's numbers adds s d^2; keys are summed."""
    layout = random_layout(2, 4, 3)
    assert torch.equal(blob_distance(layout, layout), torch.zeros(2, dtype=torch.float64))
    for key in KEYS:
        moved = getattr(layout, key).clone()
        moved[1] += 2
        expected = torch.tensor([0.0, 4.0], dtype=torch.float64)
        torch.testing.assert_close(blob_distance(layout.replace({key: moved}), layout), expected)
    xs, features = layout.xs.clone(), layout.features.clone()
    xs[0, 0] += 1
    features[0, 0, 0] += 3
    distance = blob_distance(layout.replace({"xs": xs, "features": features}), layout)
    torch.testing.assert_close(distance, torch.tensor([1 / 4 + 9 / 15, 0.0], dtype=torch.float64))


def test_blob_distance_ignores_the_size_of_the_background():
    layout = random_layout(2, 4, 3)
    sizes = layout.sizes.clone().requires_grad_()
    with torch.no_grad():
        sizes[:, 0] = 1e6
        sizes[0, 1] += 1
    distance = blob_distance(layout.replace({"sizes": sizes}), layout)
    torch.testing.assert_close(distance.detach(), torch.tensor([1 / 4, 0.0], dtype=torch.float64))
    distance.sum().backward()
    assert (sizes.grad[:, 0] == 0).all()


def test_blob_distance_is_symmetric():
    first, second = random_layout(3, 4, 2), random_layout(3, 4, 2, seed=1)
    torch.testing.assert_close(blob_distance(first, second), blob_distance(second, first))
