"""Frechet distance against its closed form, scipy and clean-fid; its statistics."""

from __future__ import annotations

from pathlib import Path

import cleanfid.fid
import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.frechet import (
    GaussianAccumulator,
    GaussianStatistics,
    frechet_distance,
    frechet_name,
    load_statistics,
    save_statistics,
)


def gaussian(mean: Tensor, covariance: Tensor, network: str = "parser") -> GaussianStatistics:
    return GaussianStatistics(mean.double(), covariance.double(), 10, network, "rect")


def measured(features: Tensor) -> GaussianStatistics:
    accumulator = GaussianAccumulator()
    accumulator.update(features)
    return accumulator.compute("parser", "rect")


def features(seed: int, count: int = 200, size: int = 12) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=random, dtype=torch.float64)
    return torch.randn(count, size, generator=random, dtype=torch.float64) @ mix + seed


def test_closed_form_of_diagonal_gaussians() -> None:
    a = gaussian(torch.tensor([0.0, 1.0]), torch.diag(torch.tensor([4.0, 9.0])))
    b = gaussian(torch.tensor([3.0, -1.0]), torch.diag(torch.tensor([1.0, 16.0])))
    # (0-3)^2 + (1+1)^2 + (2-1)^2 + (3-4)^2
    assert frechet_distance(a, b) == pytest.approx(15.0, abs=1e-12)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # by clean-fid
def test_equals_scipy_and_clean_fid() -> None:
    a, b = measured(features(1)), measured(features(2))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = ((a.mean - b.mean) ** 2).sum() + (a.covariance + b.covariance).trace() - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    expected = cleanfid.fid.frechet_distance(*(each.numpy() for each in (a.mean, a.covariance, b.mean, b.covariance)))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_properties() -> None:
    a, b = measured(features(1)), measured(features(2))
    few = measured(features(3, count=5))  # a singular covariance
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_statistics_equal_numpy_and_do_not_depend_on_batches() -> None:
    data = features(4)
    whole, parts = measured(data), GaussianAccumulator()
    for part in (data[:3], data[3:150], data[150:]):
        parts.update(part)
    split = parts.compute("parser", "rect")
    np.testing.assert_allclose(whole.covariance, np.cov(data.numpy().T), rtol=1e-10)
    np.testing.assert_allclose(split.covariance, whole.covariance, rtol=1e-10)
    np.testing.assert_allclose(split.mean, data.mean(0), rtol=1e-12)
    assert whole.images == 200


def test_statistics_that_do_not_match_raise() -> None:
    a = measured(features(1))
    with pytest.raises(BlobexError, match="cannot be compared"):
        frechet_distance(a, gaussian(a.mean, a.covariance, network="inception"))
    with pytest.raises(BlobexError, match="two images"):
        measured(features(1)[:1])
    with pytest.raises(BlobexError, match="not finite"):
        measured(features(1) * float("nan"))


def test_saved_and_loaded_statistics_are_equal(tmp_path: Path) -> None:
    a = measured(features(1))
    save_statistics(tmp_path / "stats" / "a.npz", a)
    assert [path.name for path in (tmp_path / "stats").iterdir()] == ["a.npz"]
    loaded = load_statistics(tmp_path / "stats" / "a.npz")
    assert torch.equal(loaded.mean, a.mean) and torch.equal(loaded.covariance, a.covariance)
    assert (loaded.images, loaded.network, loaded.setup) == (200, "parser", "rect")
    (tmp_path / "stats" / "a.npz").write_bytes(b"PK\x03\x04 cut short")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(BlobexError, match="no Frechet statistics"):
            load_statistics(tmp_path / "stats" / name)


def test_clean_fids_own_files(tmp_path: Path) -> None:
    """Float32 means and compression, as clean-fid writes them; its files for the KID and of other modes are refused."""
    data = features(1).float().numpy()
    path = tmp_path / "bdd_clean_custom_na.npz"
    np.savez_compressed(path, mu=data.mean(0), sigma=np.cov(data, rowvar=False))
    loaded = load_statistics(path, "rect")
    assert (loaded.images, loaded.network, loaded.setup) == (None, "inception_clean", "rect")
    np.testing.assert_allclose(loaded.mean, data.mean(0, dtype=np.float64), rtol=1e-5)
    assert loaded.mean.dtype == loaded.covariance.dtype == torch.float64
    own = GaussianStatistics(loaded.mean, loaded.covariance, 200, "inception_clean", "rect")
    assert frechet_distance(own, loaded) == pytest.approx(0, abs=1e-6)
    with pytest.raises(BlobexError, match="names no setup"):
        load_statistics(path)
    np.savez_compressed(tmp_path / "bdd_clean_custom_na_kid.npz", feats=data)
    with pytest.raises(BlobexError, match="no Frechet statistics in"):
        load_statistics(tmp_path / "bdd_clean_custom_na_kid.npz", "rect")
    np.savez_compressed(tmp_path / "bomb.npz", mu=np.zeros(2**24), sigma=np.zeros(2**24))
    with pytest.raises(BlobexError, match="no Frechet statistics in"):
        load_statistics(tmp_path / "bomb.npz", "rect")


def test_names_of_feature_networks() -> None:
    names = {network: frechet_name(network) for network in ("parser", "inception", "inception_clean")}
    assert names == {"parser": "fd_parser", "inception": "fid", "inception_clean": "fid_clean"}
    a = measured(features(1))
    with pytest.raises(BlobexError, match="inception/rect and inception_clean/rect cannot be compared"):
        frechet_distance(gaussian(a.mean, a.covariance, "inception"), gaussian(a.mean, a.covariance, "inception_clean"))
