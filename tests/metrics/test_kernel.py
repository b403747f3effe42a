"""The kernel distance against a double loop, torchmetrics and clean-fid."""

import cleanfid.fid
import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from blobex.core.errors import BlobexError
from blobex.metrics.kernel import kernel_distance, kernel_name, squared_discrepancy


def features(seed: int, count: int = 60, size: int = 7, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=random, dtype=torch.float64) + shift


def test_discrepancy_equals_a_double_loop_for_sets_of_two_sizes() -> None:
    x, y = features(1, 9).numpy(), features(2, 13, shift=0.5).numpy()

    def mean(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (same and i == j)]
        return sum((sum(a[i] * b[j]) / 7 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert squared_discrepancy(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(expected, rel=1e-12)


def test_equals_clean_fid_where_a_subset_is_the_whole() -> None:
    a, b = features(1), features(2, shift=0.3)
    found = kernel_distance(a, b, seed=0, subsets=3, subset_size=60)
    theirs = cleanfid.fid.kernel_distance(a.numpy(), b.numpy(), num_subsets=1, max_subset_size=60)
    assert found.mean == pytest.approx(theirs, rel=1e-10)
    assert found.deviation == pytest.approx(0, abs=1e-12)
    assert (found.subsets, found.subset_size) == (3, 60)


def test_mean_and_deviation_over_subsets_are_torchmetrics() -> None:
    a, b = features(1), features(2, 45, shift=0.3)
    random, values = torch.Generator().manual_seed(5), []
    for _ in range(8):
        first, second = (torch.randperm(len(each), generator=random)[:20] for each in (a, b))
        values.append(float(poly_mmd(a[first], b[second])))
    found = kernel_distance(a, b, seed=5, subsets=8, subset_size=20)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-10)
    assert found.deviation == pytest.approx(np.std(values), rel=1e-10)
    assert found.deviation > 0


def test_no_bias_whatever_the_size() -> None:
    """Sets from one distribution give 0 on average, half of the time less; with the diagonal they would not."""
    values = torch.stack([squared_discrepancy(features(2 * i, 10), features(2 * i + 1, 10)) for i in range(400)])
    error = values.std() / 20
    diagonal = (features(0, 1000).square().mean(1) + 1).pow(3).mean() / 10  # what one biased term would add
    assert abs(values.mean()) < 3 * error < diagonal
    assert 0.3 < (values < 0).double().mean() < 0.7


def test_subsets_follow_the_seed_and_hold_no_picture_twice() -> None:
    a, b = features(1).float(), features(2).float()
    assert kernel_distance(a, b, 0, 4, 20) == kernel_distance(a, b, 0, 4, 20) != kernel_distance(a, b, 1, 4, 20)
    whole = {kernel_distance(a, b, seed, 1, 60).mean for seed in range(4)}
    assert max(whole) - min(whole) < 1e-12  # all 60 of 60, in any order


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(BlobexError, match="has 9 pictures: this measure needs 20 or more"):
        kernel_distance(features(1), features(1, 9), 0, subset_size=20)
    with pytest.raises(BlobexError, match="60x7 and 60x6 cannot be compared"):
        kernel_distance(features(1), features(1, size=6), 0, subset_size=20)
    with pytest.raises(BlobexError, match="not finite"):
        kernel_distance(features(1), features(1) / 0, 0, subset_size=20)
    for subsets, size in ((0, 20), (2, 1)):
        with pytest.raises(BlobexError, match="measure nothing"):
            kernel_distance(features(1), features(2), 0, subsets, size)


def test_only_inceptions_distance_is_called_kid() -> None:
    names = [kernel_name(network) for network in ("parser", "inception", "inception_clean")]
    assert names == ["kd_parser", "kid", "kid_clean"]
