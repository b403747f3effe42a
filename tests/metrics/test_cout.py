"""COUT against curves by hand and against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.counterfactuals import attribute_scores, cout


def share(images: Tensor, _: Tensor) -> Tensor:
    """A linear model: the wanted outcome's probability is the mean of the image, the original's the rest."""
    wanted = images.mean((1, 2, 3))
    return torch.stack([wanted, 1 - wanted], dim=1)


def test_linear_model_by_hand() -> None:
    query, ones = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    # the wanted curve runs straight from 0 to 1, the original's from 1 to 0: both areas are 1/2
    assert cout(query, ones, share, steps=4).item() == pytest.approx(0)
    one = query.clone()
    one[:, :, 1, 0] = 1
    # a single pixel differs: the margin rises from -1 to -1/2 in the first interval, and stays there in three
    assert cout(query, one, share, steps=4).item() == pytest.approx((-0.75 - 3 * 0.5) / 4)
    # two intervals of two pixels: the first moves both differing pixels
    one[:, :, 0, 0] = 0.5
    assert cout(query, one, share, steps=2).item() == pytest.approx(((-1 - 0.25) / 2 - 0.25) / 2)


def patch_mean(images: Tensor, _: Tensor) -> Tensor:
    """A model that decides by the mean of a patch of 16x16 pixels alone, and is certain."""
    wanted = (images[:, :, 24:40, 24:40].mean((1, 2, 3)) > 0.5).float()
    return torch.stack([wanted, 1 - wanted], dim=1)


def patched() -> Tensor:
    counterfactual = torch.zeros(1, 3, 64, 64)
    counterfactual[:, :, 24:40, 24:40] = 1
    return counterfactual


def test_a_small_change_that_flips_is_rewarded() -> None:
    """Of 51 intervals of 81 pixels, the first is at -1, the second crosses 0, and all others are at 1."""
    query = torch.zeros(1, 3, 64, 64)
    assert cout(query, patched(), patch_mean).item() == pytest.approx(48 / 51, abs=1e-6)
    assert round(48 / 51, 3) == 0.941


@pytest.mark.parametrize("noise", [1e-9, 1e-6, 1e-3])
def test_tiny_noise_elsewhere_changes_nothing(noise: float) -> None:
    query = torch.zeros(1, 3, 64, 64)
    added = noise * torch.rand(query.shape, generator=torch.Generator().manual_seed(0))
    noisy = torch.where(patched() == 0, added, patched())
    assert abs(cout(query, noisy, patch_mean) - cout(query, patched(), patch_mean)).item() < 1e-6


def test_largest_differences_are_replaced_first() -> None:
    query, counterfactual = torch.zeros(1, 3, 1, 4), torch.zeros(1, 3, 1, 4)
    counterfactual[0, 0, 0] = torch.tensor([0.2, -0.9, 0.5, 0.2])
    seen = []

    def scores(images: Tensor, _: Tensor) -> Tensor:
        seen.append(images[0, 0, 0].ne(0).int().tolist())
        return torch.zeros(len(images), 2)

    cout(query, counterfactual, scores, steps=4)
    assert seen == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_extremes_and_identical_images() -> None:
    query, other = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)

    def certain(value: float) -> object:
        return lambda images, _: torch.tensor([[value, 1 - value]]).expand(len(images), 2)

    assert cout(query, other, certain(1.0)).tolist() == [1, 1]
    assert cout(query, other, certain(0.0)).tolist() == [-1, -1]
    # the curves are constant, at the query's own probabilities
    torch.testing.assert_close(cout(query + 0.3, query + 0.3, share), torch.full((2,), 0.3 - 0.7))


def pairs(count: int = 7) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    queries = torch.rand(count, 3, 5, 6, generator=random)
    changed = torch.rand(count, 1, 5, 6, generator=random) < torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return queries, torch.where(changed, torch.rand(count, 3, 5, 6, generator=random), queries)


def weighted(images: Tensor, numbers: Tensor) -> Tensor:
    """A model that differs from explanation to explanation."""
    weights = torch.linspace(-3, 3, 90).view(3, 5, 6).double()
    logits = (images.double() * weights).sum((1, 2, 3)) + numbers
    return attribute_scores(logits, numbers % 2 == 0)


@pytest.mark.parametrize("steps", [1, 8, 30, 50])  # of 30 pixels: all at once, 3 at a time, one at a time, as well
def test_equals_a_loop_over_pixels(steps: int) -> None:
    """Images of which no pixel, some, and all pixels differ; the procedure of the paper, without shortcuts."""
    queries, counterfactuals = pairs()
    expected, step = [], max(1, 30 // steps)
    for number, (query, target) in enumerate(zip(queries, counterfactuals, strict=True)):
        order = np.argsort(-(target - query).abs().sum(0).flatten().numpy(), kind="stable")
        mixed = query.clone().flatten(1)
        curves = [weighted(mixed.view(1, 3, 5, 6), torch.tensor([number]))[0].numpy()]
        for start in range(0, 30, step):
            moved = order[start : start + step]
            mixed[:, moved] = target.flatten(1)[:, moved]
            curves.append(weighted(mixed.view(1, 3, 5, 6), torch.tensor([number]))[0].numpy())
        wanted, original = np.trapezoid(np.array(curves), axis=0) / (len(curves) - 1)
        expected.append(wanted - original)
    np.testing.assert_allclose(cout(queries, counterfactuals, weighted, steps), expected, atol=1e-6)


def test_results_do_not_depend_on_the_batch_size() -> None:
    queries, counterfactuals = pairs()
    whole = cout(queries, counterfactuals, weighted, steps=9, batch_size=100)
    for size in (1, 3):
        assert torch.equal(cout(queries, counterfactuals, weighted, steps=9, batch_size=size), whole)
    assert cout(queries[:0], counterfactuals[:0], weighted).shape == (0,)


def test_nan_and_invalid_input() -> None:
    query, other = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    assert cout(query, other, lambda images, _: torch.full((len(images), 2), torch.nan)).isnan().all()
    with pytest.raises(BlobexError, match="one shape"):
        cout(query, other[:, :, :1], share)
    with pytest.raises(BlobexError, match="one step"):
        cout(query, other, share, steps=0)
    with pytest.raises(BlobexError, match="wanted and of the original"):
        cout(query, other, lambda images, _: images.mean((1, 2, 3)))
