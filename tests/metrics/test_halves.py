"""Split Frechet distance against numpy and scipy on the same splits."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.feature_sets import drawn_distances, split_distances, split_frechet, splits


def features(seed: int, count: int = 120, size: int = 6, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=random) + shift


def by_scipy(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    first, second = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(first @ second).real
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root))


def test_equals_scipy_on_the_same_splits() -> None:
    queries, counterfactuals = features(1), features(2, shift=0.5) * 1.5
    parts = splits(120, seed=3, repeats=4)
    expected = np.mean([by_scipy(counterfactuals[first], queries[second]) for first, second in parts])
    assert split_frechet(queries, counterfactuals, seed=3, repeats=4) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("count", [4, 7, 100])
def test_halves_are_disjoint_and_complete(count: int) -> None:
    parts = splits(count, seed=0, repeats=6)
    for first, second in parts:
        assert (len(first), len(second)) == (count // 2, count - count // 2)
        assert sorted([*first.tolist(), *second.tolist()]) == list(range(count))
    assert len({tuple(first.tolist()) for first, _ in parts}) > 1


def test_counterfactuals_are_compared_with_queries_of_other_images() -> None:
    """Copies of the queries are as far away as one half of the queries is from the other, not at distance 0."""
    queries = features(1, count=40, size=8)
    nearly = queries + 1e-3 * features(2, count=40, size=8)
    floor = split_frechet(queries, queries, seed=0)
    assert by_scipy(nearly, queries) < 1e-3 < 0.5 < floor
    assert split_frechet(queries, nearly, seed=0) == pytest.approx(floor, rel=0.01)


def test_distance_of_copies_falls_with_the_number_of_images() -> None:
    few, many = (split_frechet(features(1, count), features(2, count), seed=0) for count in (40, 4000))
    assert many < 0.02 < 10 * many < few


def test_equals_the_closed_form_for_many_images() -> None:
    """|0.5|^2 times 6 features (Gaussians with equal covariances)."""
    assert split_frechet(features(1, 20_000), features(2, 20_000, shift=0.5), seed=0) == pytest.approx(1.5, rel=0.03)


def test_order_of_images_has_as_little_influence_as_the_seed() -> None:
    queries, counterfactuals = features(1, count=400), features(2, count=400, shift=0.3)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(9))
    by_seed = [split_frechet(queries, counterfactuals, seed) for seed in range(12)]
    shuffled = split_frechet(queries[order], counterfactuals[order], 0)
    assert shuffled != by_seed[0] == split_frechet(queries, counterfactuals, 0)
    assert abs(shuffled - np.mean(by_seed)) < 4 * np.std(by_seed)


def test_invalid_input_raises() -> None:
    with pytest.raises(BlobexError, match="119 counterfactuals of 120 queries"):
        split_frechet(features(1), features(2)[1:], 0)
    with pytest.raises(BlobexError, match="has 3 images: this measure needs 4 or more"):
        split_frechet(features(1, 3), features(2, 3), 0)
    with pytest.raises(BlobexError, match="not finite"):
        split_frechet(features(1), features(2) * float("nan"), 0)
    with pytest.raises(BlobexError, match="0 repeats"):
        split_frechet(features(1), features(2), 0, repeats=0)


def test_split_distance_is_the_mean_of_its_splits() -> None:
    one, other = features(1), features(2, shift=0.5)
    each = split_distances(one, other, seed=3, repeats=4)
    assert len(set(each)) == 4 and np.mean(each) == pytest.approx(split_frechet(one, other, seed=3, repeats=4))


def test_drawn_distance_equals_scipy_and_is_zero_of_all_images() -> None:
    few, many = features(1, 40), features(2, 200, shift=0.3)
    draw = torch.randperm(200, generator=torch.Generator().manual_seed(5))[:40]
    assert drawn_distances(few, many, seed=5, repeats=3)[0] == pytest.approx(by_scipy(few, many[draw]), rel=1e-8)
    assert max(drawn_distances(many, many, seed=5, repeats=2)) < 1e-9
    with pytest.raises(BlobexError, match="40 real images are fewer than the 200"):
        drawn_distances(many, few, seed=5)
