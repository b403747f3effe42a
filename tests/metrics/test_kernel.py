"""Kernel distance against a double loop, clean-fid, and its expected value."""

import cleanfid.fid
import numpy as np
import pytest
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.feature_sets import kernel_distance, kernel_name


def features(seed: int, count: int = 60, size: int = 7, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=random, dtype=torch.float64) + shift


def test_subsets_equal_a_double_loop() -> None:
    """Sets of two sizes; the subsets are the first entries of permutations from one generator."""
    a, b = features(1, 9), features(2, 13, shift=0.5)

    def mean(x: np.ndarray, y: np.ndarray, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        return sum((sum(x[i] * y[j]) / 7 + 1) ** 3 for i, j in pairs) / len(pairs)

    random, values = torch.Generator().manual_seed(5), []
    for _ in range(4):
        x, y = (each[torch.randperm(len(each), generator=random)[:6]].numpy() for each in (a, b))
        values.append(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))
    result = kernel_distance(a, b, seed=5, subsets=4, subset_size=6)
    assert result.mean == pytest.approx(np.mean(values), rel=1e-10)
    assert result.deviation == pytest.approx(np.std(values), rel=1e-10)


def test_whole_sets_equal_clean_fid() -> None:
    a, b = features(1), features(2, shift=0.3)
    result = kernel_distance(a, b, seed=0, subsets=3, subset_size=60)
    expected = cleanfid.fid.kernel_distance(a.numpy(), b.numpy(), num_subsets=1, max_subset_size=60)
    assert result.mean == pytest.approx(expected, rel=1e-10)
    assert result.deviation == pytest.approx(0, abs=1e-12)
    assert (result.subsets, result.subset_size) == (3, 60)


def test_mean_is_unbiased() -> None:
    """Sets from one distribution give 0 on average, and values below 0 half of the time."""
    values = np.array(
        [kernel_distance(features(2 * i, 10), features(2 * i + 1, 10), 0, 1, 10).mean for i in range(400)]
    )
    error = values.std() / 20
    diagonal = (features(0, 1000).square().mean(1) + 1).pow(3).mean() / 10  # bias of one term with its diagonal
    assert abs(values.mean()) < 3 * error < diagonal
    assert 0.3 < (values < 0).mean() < 0.7


def test_subsets_follow_the_seed_and_hold_no_image_twice() -> None:
    a, b = features(1).float(), features(2).float()
    assert kernel_distance(a, b, 0, 4, 20) == kernel_distance(a, b, 0, 4, 20) != kernel_distance(a, b, 1, 4, 20)
    whole = {kernel_distance(a, b, seed, 1, 60).mean for seed in range(4)}
    assert max(whole) - min(whole) < 1e-12  # all 60 of 60, in some order


def test_invalid_input_raises() -> None:
    with pytest.raises(BlobexError, match="has 9 images: this measure needs 20 or more"):
        kernel_distance(features(1), features(1, 9), 0, subset_size=20)
    with pytest.raises(BlobexError, match="60x7 and 60x6 cannot be compared"):
        kernel_distance(features(1), features(1, size=6), 0, subset_size=20)
    with pytest.raises(BlobexError, match="not finite"):
        kernel_distance(features(1), features(1) / 0, 0, subset_size=20)
    for subsets, size in ((0, 20), (2, 1)):
        with pytest.raises(BlobexError, match="measure nothing"):
            kernel_distance(features(1), features(2), 0, subsets, size)


def test_names_of_feature_networks() -> None:
    names = [kernel_name(network) for network in ("parser", "inception", "inception_clean")]
    assert names == ["kd_parser", "kid", "kid_clean"]
