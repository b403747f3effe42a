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
    # a single pixel differs, so that one interval is taken: wanted (0 + 1/4)/2, original (1 + 3/4)/2
    assert cout(query, one, share, steps=4).item() == pytest.approx(1 / 8 - 7 / 8)
    # two steps of two pixels: the first moves both differing pixels
    one[:, :, 0, 0] = 0.5
    assert cout(query, one, share, steps=2).item() == pytest.approx((0 + 0.375) / 2 - (1 + 0.625) / 2)


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
    # no pixel is replaced: the curves are constant, at the query's own probabilities
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


def test_equals_a_loop_over_pixels() -> None:
    queries, counterfactuals = pairs()
    steps, expected = 8, []
    for number, (query, target) in enumerate(zip(queries, counterfactuals, strict=True)):
        difference = (target - query).abs().sum(0).flatten().numpy()
        order = [place for place in np.argsort(-difference, kind="stable") if difference[place] > 0]
        curves = []
        for step in range(steps + 1):
            mixed = query.clone().flatten(1)
            moved = order[: round(step * 30 / steps)]
            mixed[:, moved] = target.flatten(1)[:, moved]
            curves.append(weighted(mixed.view(1, 3, 5, 6), torch.tensor([number]))[0].numpy())
            if len(moved) == len(order):
                break
        wanted, original = np.array(curves).T
        taken = max(len(curves) - 1, 1)
        areas = [np.trapezoid(curve) / taken if len(curve) > 1 else curve[0] for curve in (wanted, original)]
        expected.append(areas[0] - areas[1])
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
