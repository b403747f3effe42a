"""Diversity by hand and against the Jaccard distance of scipy."""

from __future__ import annotations

import pytest
import scipy.spatial.distance
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.counterfactuals import mean_pairwise_distance, mean_pairwise_jaccard


def absolute(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean((1, 2, 3))


def test_mean_of_all_pairs_by_hand() -> None:
    levels = torch.tensor([0.0, 1, 5]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert mean_pairwise_distance(levels, absolute) == pytest.approx((1 + 5 + 4) / 3)
    assert mean_pairwise_distance(levels, absolute, batch_size=1) == pytest.approx((1 + 5 + 4) / 3)
    assert mean_pairwise_distance(levels[:1].repeat(4, 1, 1, 1), absolute) == 0


def test_jaccard_by_hand() -> None:
    changed = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]).bool()
    # pairs share 1 of 3, 0 of 3 and 0 of 3
    assert mean_pairwise_jaccard(changed) == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert mean_pairwise_jaccard(changed[[0, 0]]) == 0
    assert mean_pairwise_jaccard(torch.zeros(2, 4, dtype=torch.bool)) == 0


def test_jaccard_equals_scipy() -> None:
    changed = torch.rand(6, 17, generator=torch.Generator().manual_seed(0)) < 0.4
    assert mean_pairwise_jaccard(changed) == pytest.approx(scipy.spatial.distance.pdist(changed, "jaccard").mean())


def test_a_single_counterfactual_raises() -> None:
    with pytest.raises(BlobexError, match="two counterfactuals"):
        mean_pairwise_jaccard(torch.ones(1, 4).bool())
    with pytest.raises(BlobexError, match="two counterfactuals"):
        mean_pairwise_distance(torch.ones(1, 3, 2, 2), absolute)
