"""Cosine similarity against torch and scipy."""

from __future__ import annotations

import pytest
import scipy.spatial.distance
import torch

from blobex.core.errors import BlobexError
from blobex.metrics.counterfactuals import cosine, similarity
from blobex.networks.parser import Parser


def features(seed: int) -> torch.Tensor:
    return torch.randn(9, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_torch_and_scipy() -> None:
    a, b = features(0), features(1)
    torch.testing.assert_close(cosine(a, b), torch.nn.functional.cosine_similarity(a, b))
    expected = [1 - scipy.spatial.distance.cosine(*rows) for rows in zip(a.numpy(), b.numpy(), strict=True)]
    torch.testing.assert_close(cosine(a, b), torch.tensor(expected, dtype=torch.float64))


def test_properties() -> None:
    a, b = features(0), features(1)
    torch.testing.assert_close(cosine(a, 3 * a), torch.ones(9, dtype=torch.float64))
    torch.testing.assert_close(cosine(a, -a), -torch.ones(9, dtype=torch.float64))
    assert cosine(torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 2]])).item() == 0
    assert cosine(a * torch.nan, b).isnan().all()
    with pytest.raises(BlobexError, match="pair 2 are all zero"):
        cosine(a, b.index_fill(0, torch.tensor([2]), 0))
    with pytest.raises(BlobexError, match="one shape"):
        cosine(a, b[:3])


def test_similarity_does_not_depend_on_the_batch_size() -> None:
    torch.manual_seed(0)
    network = Parser([4, 6], 16, 32).eval().pooled_features
    queries, others = torch.rand(2, 5, 3, 16, 32) * 2 - 1
    whole = similarity(queries, others, network)
    torch.testing.assert_close(similarity(queries, others, network, batch_size=2), whole)
    torch.testing.assert_close(similarity(queries, queries, network), torch.ones(5, dtype=torch.float64))
    assert (whole < 1).all() and similarity(queries[:0], others[:0], network).shape == (0,)
    with pytest.raises(BlobexError, match="one shape"):
        similarity(queries, others[:3], network)
