"""Inversion against linear toy networks whose answer is known by hand."""

import dataclasses

import pytest
import torch
from torch import Tensor

from blobex.config import InvertSetup
from blobex.errors import BlobexError
from blobex.inversion.descent import finite, join, keep_better
from blobex.inversion.invert import Inversion, invert
from blobex.layout.layout import KEYS, BlobLayout

SETUP = InvertSetup(
    steps=60,
    learning_rate=0.05,
    size_lr_multiplier=2.0,
    halve_every=20,
    perceptual=1.0,
    l2=0.1,
    decision=0.1,
    blobs=0.1,
)
BLOBS = 2


class MeanAbsolute:
    """A stand-in for the perceptual distance."""

    def embed(self, images: Tensor) -> Tensor:
        return images

    def distance_to(self, embedded: Tensor, images: Tensor) -> Tensor:
        return (embedded - images).abs().flatten(1).mean(1)


def encode(images: Tensor) -> BlobLayout:
    """Zeros, whatever the picture."""
    n = len(images)
    shapes = {"xs": (BLOBS,), "ys": (BLOBS,), "covs": (BLOBS, 4), "sizes": (BLOBS + 1,)}
    shapes |= {"features": (BLOBS + 1, 3), "spatial_style": (BLOBS + 1, 3)}
    return BlobLayout(**{key: torch.zeros(n, *shape) for key, shape in shapes.items()})


def render(layout: BlobLayout) -> Tensor:
    """2x2 pictures: one row from each blob's x, all of them brighter with the sizes' sum."""
    rows = layout.xs[:, None, :, None].expand(-1, 3, -1, 2)
    return rows + layout.sizes[:, 1:].sum(1)[:, None, None, None] * 0.1


def features(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :5]


def run(images: Tensor, setup: InvertSetup = SETUP, batch_size: int = 4, **networks: object) -> Inversion:
    chosen = {"encode": encode, "render": render, "decide_features": features, "perceptual": MeanAbsolute()} | networks
    return invert(images, setup=setup, batch_size=batch_size, **chosen)  # type: ignore[arg-type]


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_no_steps_gives_the_encoders_blobs() -> None:
    result = run(pictures(3), dataclasses.replace(SETUP, steps=0))
    for key, tensor in result.layout.items():
        assert torch.equal(tensor, getattr(encode(pictures(3)), key))
    assert torch.equal(result.loss, result.encoder_loss)
    assert torch.equal(result.blobs, torch.zeros(3))
    assert result.step.tolist() == [0, 0, 0]


def test_loss_is_the_weighted_sum_worked_by_hand() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    result = run(images, dataclasses.replace(SETUP, steps=0))
    # The rendering of zeros is black: |0.5| = 0.5, 0.5^2 = 0.25 over pixels and over features, and no change of blobs.
    torch.testing.assert_close(result.loss, torch.tensor([0.5 + 0.1 * 0.25 + 0.1 * 0.25]))


def test_first_step_moves_each_key_by_its_learning_rate() -> None:
    # Adam's first step is the learning rate times the gradient's sign (Kingma & Ba 2015, algorithm 1 with t = 1).
    result = run(torch.ones(1, 3, 2, 2), dataclasses.replace(SETUP, steps=1))
    torch.testing.assert_close(result.layout.xs, torch.full((1, BLOBS), 0.05), rtol=1e-5, atol=0)
    torch.testing.assert_close(result.layout.sizes[:, 1:], torch.full((1, BLOBS), 0.1), rtol=1e-5, atol=0)
    assert not result.layout.ys.any()


def test_learning_rate_is_halved() -> None:
    # With a constant gradient every Adam step is one learning rate: 0.05 * (2 + 2/2 + 2/4) in six steps halved every 2.
    setup = dataclasses.replace(SETUP, steps=6, halve_every=2, l2=0.0, decision=0.0, blobs=0.0, size_lr_multiplier=1e-3)
    result = run(torch.full((1, 3, 2, 2), 9.0), setup)
    torch.testing.assert_close(result.layout.xs, torch.full((1, BLOBS), 0.05 * 3.5), rtol=1e-3, atol=0)


def test_picture_loss_and_blobs_belong_together() -> None:
    images = pictures(5)
    result = run(images)
    assert torch.equal(result.image, render(result.layout))
    torch.testing.assert_close(result.l2, (result.image - images).square().mean((1, 2, 3)))
    torch.testing.assert_close(result.decision, (features(result.image) - features(images)).square().mean(1))
    torch.testing.assert_close(result.perceptual, (result.image - images).abs().mean((1, 2, 3)))
    moved = result.layout.replace({"sizes": result.layout.sizes[:, 1:]})
    torch.testing.assert_close(result.blobs, sum(tensor.square().flatten(1).mean(1) for _, tensor in moved.items()))
    total = result.perceptual + 0.1 * (result.l2 + result.decision + result.blobs)
    torch.testing.assert_close(result.loss, total)
    assert (result.loss < result.encoder_loss).all()


def test_best_iterate_is_kept() -> None:
    seen: list[Tensor] = []

    def recording(layout: BlobLayout) -> Tensor:
        seen.append(render(layout).detach())
        return render(layout)

    images = pictures(4)
    setup = dataclasses.replace(SETUP, learning_rate=0.5, halve_every=0, l2=0.0, decision=0.0, blobs=0.0)  # overshoots
    result = run(images, setup, render=recording)
    losses = torch.stack([(image - images).abs().mean((1, 2, 3)) for image in seen])
    assert len(seen) == setup.steps + 1
    torch.testing.assert_close(result.loss, losses.min(0).values)
    assert result.step.tolist() == losses.argmin(0).tolist()
    assert (result.step < setup.steps).any()  # else the test would pass for the last iterate too


def test_results_do_not_depend_on_the_batch() -> None:
    images = pictures(5)
    together, alone = run(images, batch_size=8), run(images, batch_size=1)
    for key in KEYS:
        torch.testing.assert_close(getattr(together.layout, key), getattr(alone.layout, key), rtol=0, atol=1e-6)
    assert torch.equal(together.step, alone.step)


def test_same_call_gives_the_same_bytes() -> None:
    first, second = run(pictures(3)), run(pictures(3))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.loss, second.loss)


def test_nan_never_wins_and_all_nan_is_flagged() -> None:
    calls = 0

    def turning_bad(layout: BlobLayout) -> Tensor:
        nonlocal calls
        calls += 1
        bad = torch.zeros(len(layout), 1, 1, 1)
        bad[0] = float("nan")  # the first picture: always
        if calls > 3:
            bad[1] = float("nan")  # the second: from the fourth iterate on
        return render(layout) + bad

    images = pictures(3)
    result = run(images, render=turning_bad)
    assert result.failed.tolist() == [True, False, False]
    assert torch.equal(result.layout.xs[0], torch.zeros(BLOBS))
    assert result.loss[1:].isfinite().all()
    assert result.step[1] <= 2
    torch.testing.assert_close(result.image[2], run(images[2:]).image[0])  # its neighbours do not disturb it


def test_target_features_are_computed_once() -> None:
    calls = 0

    def counting(images: Tensor) -> Tensor:
        nonlocal calls
        calls += not images.requires_grad
        return features(images)

    run(pictures(2), dataclasses.replace(SETUP, steps=5), decide_features=counting)
    assert calls == 1


def test_networks_receive_no_gradients() -> None:
    weight = torch.ones((), requires_grad=True)
    run(pictures(2), dataclasses.replace(SETUP, steps=2), render=lambda layout: render(layout) * weight)
    assert weight.grad is None


def test_pictures_of_the_wrong_shape_are_refused() -> None:
    for images in (torch.zeros(3, 2, 2), torch.zeros(0, 3, 2, 2)):
        with pytest.raises(BlobexError, match=r"\(N,3,H,W\)"):
            run(images)


def test_helpers() -> None:
    assert finite(torch.tensor([1.0, float("inf")]), torch.ones(2, 3)).tolist() == [True, False]
    kept = keep_better(torch.tensor([True, False]), {"a": torch.ones(2, 2, 2)}, {"a": torch.zeros(2, 2, 2)})
    assert kept["a"].sum((1, 2)).tolist() == [4, 0]
    both = join([run(pictures(2), dataclasses.replace(SETUP, steps=1))] * 2)
    assert len(both) == 4
    assert both.image.shape == (4, 3, 2, 2)
