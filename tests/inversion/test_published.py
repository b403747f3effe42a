"""The published inversion against a second implementation for single images."""

import pytest
import torch
from torch import Tensor
from worlds import published_world
from worlds.linear_world import MeanAbsolute, layouts
from worlds.published_scripts import inversion
from worlds.published_world import generate, networks, scenes

from blobex.inversion import published
from blobex.inversion.published import descend, invert_published, layout_error
from blobex.layout.blobs import BlobLayout, blob_distance
from blobex.layout.splat import splat
from blobex.optim.network_callables import Networks


def lpips(image: Tensor, other: Tensor) -> Tensor:
    return MeanAbsolute().distance_to([other], image)


def render_sums(layout: BlobLayout) -> Tensor:
    """Render 2x2 images whose pixels are four different weighted sums of the layout."""
    weights = [torch.linspace(-1, 1, tensor[0].numel()).roll(1) for _, tensor in layout.items()]
    sums = torch.stack([(t.flatten(1) * w).sum(1) for (_, t), w in zip(layout.items(), weights, strict=True)], dim=1)
    return torch.stack([sums[:, :4], sums[:, 1:5], sums[:, 2:]], dim=1).unflatten(2, (2, 2))


def features(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :5]


def encode(images: Tensor) -> BlobLayout:
    return layouts(len(images)).map(lambda tensor: tensor + images.mean())


def world() -> Networks:
    return Networks(render_sums, lambda layout: splat(layout, 2, 2), encode, features, features, MeanAbsolute())


def test_inversion_is_the_published_loop() -> None:
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    encoded = world().encode(images)
    result = invert_published(images, world())
    for number in range(3):
        start = encoded[[number]].as_dict()
        expected, _ = inversion(
            images[[number]], start, lambda blobs: render_sums(BlobLayout(**blobs)), lpips, features, 400
        )
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(result.layout, key)[[number]], tensor, rtol=0, atol=1e-5)
    assert result.step.tolist() == [400] * 3
    assert (result.loss < result.encoder_loss).all()
    assert torch.equal(result.image, render_sums(result.layout))


def test_the_first_losses_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """32x32 images of K = 7 blobs; the rendered ones leave [-1,1] and are compared and decided as they are."""
    monkeypatch.setattr(published, "STEPS", 5)
    queries, start = generate(scenes(2).as_dict()).clamp(-1, 1), scenes(2, seed=2)
    assert generate(start.as_dict()).abs().amax() > 1.5
    layout, losses = descend(queries, start, networks())
    result = invert_published(queries, networks())
    for number in range(2):
        query, encoded = queries[[number]], start[[number]].as_dict()
        expected, trace = inversion(query, encoded, generate, lpips, published_world.features, 5)
        assert losses[:, number].tolist() == pytest.approx(trace, rel=0, abs=1e-6) and len(set(trace)) == 5
        assert result.encoder_loss[number].item() == pytest.approx(trace[0], rel=0, abs=1e-6)
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(layout, key)[[number]], tensor, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.layout.xs, layout.xs)


def test_the_unread_size_counts_in_the_mean() -> None:
    start = layouts(2, blobs=7)
    moved = start.replace({"sizes": start.sizes + torch.tensor([[0.0] + [2.0] * 7])})
    torch.testing.assert_close(layout_error(moved, start), torch.full((2,), 4 * 7 / 8))
    torch.testing.assert_close(blob_distance(moved, start), torch.full((2,), 4.0))
    other = start.replace({key: tensor + 1 for key, tensor in start.items() if key != "sizes"})
    torch.testing.assert_close(layout_error(other, start), blob_distance(other, start))
