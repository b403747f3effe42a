"""The Frechet distance against its closed form, scipy and torchmetrics; its statistics and feature networks."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from cleanfid.resize import make_resizer
from torch import Tensor, nn

from blobex.core.errors import BlobexError
from blobex.metrics.frechet import (
    GaussianAccumulator,
    GaussianStatistics,
    frechet_distance,
    frechet_name,
    inception_features,
    load_features,
    load_statistics,
    resize_clean,
    resize_fast,
    save_statistics,
    statistics,
)
from blobex.networks import weights
from blobex.networks.parser import Parser


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


def test_equals_scipy_and_torchmetrics() -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = measured(features(1)), measured(features(2))
    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy()).real
    expected = ((a.mean - b.mean) ** 2).sum() + (a.covariance + b.covariance).trace() - 2 * np.trace(root)
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)
    theirs = _compute_fid(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(float(theirs), rel=1e-9)


def test_properties() -> None:
    a, b = measured(features(1)), measured(features(2))
    few = measured(features(3, count=5))  # a singular covariance
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_statistics_are_numpys_and_do_not_depend_on_batches() -> None:
    data = features(4)
    whole, parts = measured(data), GaussianAccumulator()
    for part in (data[:3], data[3:150], data[150:]):
        parts.update(part)
    split = parts.compute("parser", "rect")
    np.testing.assert_allclose(whole.covariance, np.cov(data.numpy().T), rtol=1e-10)
    np.testing.assert_allclose(split.covariance, whole.covariance, rtol=1e-10)
    np.testing.assert_allclose(split.mean, data.mean(0), rtol=1e-12)
    assert whole.images == 200


def test_what_cannot_be_compared_is_refused() -> None:
    a = measured(features(1))
    with pytest.raises(BlobexError, match="cannot be compared"):
        frechet_distance(a, gaussian(a.mean, a.covariance, network="inception"))
    with pytest.raises(BlobexError, match="two pictures"):
        measured(features(1)[:1])
    with pytest.raises(BlobexError, match="not finite"):
        measured(features(1) * float("nan"))


def test_statistics_survive_the_disk(tmp_path: Path) -> None:
    a = measured(features(1))
    save_statistics(tmp_path / "stats" / "a.npz", a)
    assert [path.name for path in (tmp_path / "stats").iterdir()] == ["a.npz"]
    back = load_statistics(tmp_path / "stats" / "a.npz")
    assert torch.equal(back.mean, a.mean) and torch.equal(back.covariance, a.covariance)
    assert (back.images, back.network, back.setup) == (200, "parser", "rect")
    (tmp_path / "stats" / "a.npz").write_bytes(b"PK\x03\x04 cut short")
    for name in ("a.npz", "b.npz"):
        with pytest.raises(BlobexError, match="no Frechet statistics"):
            load_statistics(tmp_path / "stats" / name)


def test_parser_features_tell_pictures_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights.save(tmp_path, "parser", {"channels": [4, 6], "height": 16, "width": 32}, Parser([4, 6], 16, 32))
    network = load_features("parser", tmp_path, torch.device("cpu"))
    noise = torch.randint(0, 256, (40, 3, 16, 32), dtype=torch.uint8)
    plain, dark = (statistics(images.split(7), network, "parser", "rect") for images in (noise, noise // 4))
    same = statistics(noise.split(16), network, "parser", "rect")
    assert plain.mean.shape == (10,)
    assert frechet_distance(plain, same) < 1e-6 < frechet_distance(plain, dark)
    with pytest.raises(BlobexError, match="unknown feature network"):
        load_features("resnet", tmp_path, torch.device("cpu"))


class Layers(nn.Module):
    """A stand-in for Inception's layers: the means and the corners of pictures of 299x299 in [-1,1]."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 299, 299)
        return torch.cat([x.mean((2, 3)), x[:, :, 0, 0]], dim=1)


class StandIn(nn.Module):
    """The interface of NVIDIA's file: its `layers` take resized and scaled pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture
def external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for Inception; torch's own downloads are empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "external"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(StandIn()).save(str(folder / "inception-2015-12-05.pt"))
    return folder


@pytest.mark.parametrize("network", ["inception", "inception_clean"])
def test_inception_is_read_from_the_folder(network: str, external: Path) -> None:
    load = partial(load_features, network, external, torch.device("cpu"), external)
    images = torch.full((2, 3, 16, 32), 192, dtype=torch.uint8)
    torch.testing.assert_close(load()(images), torch.full((2, 6), 0.5))
    file = external / "inception-2015-12-05.pt"
    file.write_bytes(b"nothing")
    with pytest.raises(BlobexError, match=f"{file} is damaged or another network: put NVIDIA's TorchScript file"):
        load()
    file.unlink()
    with pytest.raises(
        BlobexError, match=rf"is missing: put NVIDIA's TorchScript file .* at {file}, or set data\.frechet to parser"
    ):
        load()


def test_clean_features_are_those_that_clean_fid_feeds(external: Path) -> None:
    from cleanfid.inception_torchscript import InceptionV3W

    images = torch.randint(0, 256, (3, 3, 20, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, resize = InceptionV3W(str(external), download=False), make_resizer("PIL", False, "bicubic", (299, 299))
        resized = [torch.from_numpy(resize(image.permute(1, 2, 0).numpy())).permute(2, 0, 1) for image in images]
    network = inception_features(external / "inception-2015-12-05.pt", torch.device("cpu"), resize_clean)
    torch.testing.assert_close(network(images), theirs.layers((torch.stack(resized) - 128) / 128))


def test_names_tell_the_networks_apart() -> None:
    names = {network: frechet_name(network) for network in ("parser", "inception", "inception_clean")}
    assert names == {"parser": "fd_parser", "inception": "fid", "inception_clean": "fid_clean"}
    a = measured(features(1))
    with pytest.raises(BlobexError, match="inception/rect and inception_clean/rect cannot be compared"):
        frechet_distance(gaussian(a.mean, a.covariance, "inception"), gaussian(a.mean, a.covariance, "inception_clean"))


def test_resizing_is_that_of_clean_fid() -> None:
    images = torch.randint(0, 256, (2, 3, 20, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = make_resizer("PIL", False, "bicubic", (24, 24))(images[0].permute(1, 2, 0).numpy())
    torch.testing.assert_close(resize_clean(images, 24)[0].permute(1, 2, 0), torch.from_numpy(theirs))
    torch.testing.assert_close(resize_fast(images, 24), resize_clean(images, 24), atol=0.05, rtol=0)
