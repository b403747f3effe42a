"""Measures of a saved generator against numpy, scipy and torchmetrics, and the command `blobex fid`."""

import errno
import json
import math
import sys
from pathlib import Path

import cleanfid.fid
import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.image.kid import poly_mmd
from worlds.tiny_networks import random_blobgan, tiny_network

from blobex.cli import main as cli
from blobex.metrics import generator
from blobex.metrics.frechet import GaussianStatistics, load_features, save_statistics, statistics
from blobex.metrics.generator import Reference, Sampling, load_generator, measure_generator
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.networks.parser import Parser

CPU = torch.device("cpu")
COUNT = 21  # no multiple of the batch sizes below


def few_features(images: Tensor) -> Tensor:
    """A feature network of three exact numbers an image."""
    assert images.dtype == torch.uint8
    return images.double().mean((2, 3))


def real_statistics(setup: str = "square") -> GaussianStatistics:
    random = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8, generator=random)
    return statistics([images], few_features, "inception", setup)


def measured(model: BlobGAN, sampling: Sampling, pictures: Path | None = None) -> dict[str, float]:
    return measure_generator(model, Reference("real.npz", real_statistics(), few_features, pictures), sampling)


def bytes_by_numpy(model: BlobGAN, count: int, seed: int, truncation: float) -> np.ndarray:
    """All images in one batch, rounded to the nearest byte."""
    z = torch.randn(count, model.z_dim, generator=torch.Generator().manual_seed(seed))
    w = model.layout_network.to_w(z)
    w = truncation * model.mean_w + (1 - truncation) * w
    pictures = model.render(model.layout_from_w(w)).double().numpy()
    return np.rint(((pictures + 1) * 127.5).clip(0, 255))


def distance_by_scipy(features: np.ndarray, real: GaussianStatistics) -> float:
    first, second = np.cov(features.T), real.covariance.numpy()
    root = scipy.linalg.sqrtm(first @ second).real
    return float(((features.mean(0) - real.mean.numpy()) ** 2).sum() + np.trace(first + second - 2 * root))


@pytest.mark.parametrize("truncation", [0.0, 0.4])
def test_all_images_count_and_are_rounded(truncation: float) -> None:
    """Unlike the published script, which truncates to bytes and drops the last, partial batch."""
    model, sizes = random_blobgan(), []

    def features(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return few_features(images)

    sampling = Sampling(COUNT, seed=3, truncation=truncation, batch_size=8)
    result = measure_generator(model, Reference("real.npz", real_statistics(), features), sampling)
    assert sizes == [8, 8, 5] and result["images"] == COUNT
    pictures = bytes_by_numpy(model, COUNT, 3, truncation)
    assert result["fid"] == pytest.approx(distance_by_scipy(pictures.mean((2, 3)), real_statistics()), rel=1e-6)
    without_last = distance_by_scipy(pictures[:16].mean((2, 3)), real_statistics())
    assert abs(result["fid"] - without_last) > 1e-3 * result["fid"]
    cut = distance_by_scipy(pictures.mean((2, 3)) - 0.5, real_statistics())  # half a byte darker on average
    assert abs(result["fid"] - cut) > 1e-4 * result["fid"]


def test_no_result_depends_on_the_batch_size(photos: Path) -> None:
    model = random_blobgan()
    one, *others = [measured(model, Sampling(COUNT, batch_size=size), photos) for size in (1, 8, 50, None)]
    assert all(other.keys() == one.keys() for other in others)
    for name in ("fid", "kid", "kid_deviation", "images", "kid_pictures"):
        assert [other[name] for other in others] == pytest.approx(3 * [one[name]], rel=1e-4)
    assert measured(model, Sampling(COUNT, seed=1)) != measured(model, Sampling(COUNT))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images of 24x32, and one file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(10):
        noise = random.integers(0, 20 * index + 50, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
    (folder / "broken.png").write_text("no picture")
    return folder


def test_kernel_distance_to_a_folder_equals_torchmetrics(photos: Path) -> None:
    model = random_blobgan()
    result = measured(model, Sampling(COUNT, batch_size=4), photos)
    assert (result["kid_pictures"], result["kid_skipped"], result["kid_subset_size"]) == (10, 1, 5)
    crops = [Image.open(photos / f"{index}.png").crop((4, 0, 28, 24)) for index in range(10)]
    known = np.stack([np.asarray(crop.resize((16, 16), Image.Resampling.BICUBIC)) for crop in crops]).mean((1, 2))
    made = bytes_by_numpy(model, COUNT, 0, 0.0).mean((2, 3))
    x, y = torch.tensor(made), torch.tensor(known)
    # Subsets of 5 scatter about the value of all pictures, which torchmetrics gives for sets of one size.
    random = torch.Generator().manual_seed(0)
    expected = np.mean([float(poly_mmd(x[torch.randperm(COUNT, generator=random)[:10]], y)) for _ in range(300)])
    assert abs(result["kid"] - expected) < 4 * result["kid_deviation"] / math.sqrt(100)
    assert result["kid_deviation"] > 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BlobGAN and a parser where the stages put them, and statistics of noise images."""
    torch.manual_seed(0)
    model, parser = random_blobgan(), Parser([4, 6], 16, 16)
    weights.save(tmp_path / "models/blobgan/square", "blobgan", {"setup": "square", **model.config()}, model)
    weights.save(tmp_path / "models/parser/square", "parser", {"setup": "square", **parser.config}, parser)
    features = load_features("parser", tmp_path / "models/parser/square", CPU)
    noise = torch.randint(0, 256, (30, 3, 16, 16), dtype=torch.uint8)
    save_statistics(tmp_path / "real.npz", statistics([noise], features, "parser", "square"))
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: object) -> int:
    """The exit code of `blobex fid` with the folder's files, unless the arguments name others."""
    usual = ["--checkpoint", folder / "models/blobgan/square", "--stats", folder / "real.npz", "-n", COUNT]
    monkeypatch.setattr(sys, "argv", ["blobex", "fid", *map(str, [*usual, "--device", "cpu", *arguments])])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_fid_prints_and_writes_the_measures(
    folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "results" / "fid.json"
    assert run(monkeypatch, folder, "--kid", photos, "--out", out, "--seed", 5, "--truncation", 0.25) == 0
    written = json.loads(out.read_text())
    assert [path.name for path in out.parent.iterdir()] == ["fid.json"]
    model, reference = load_generator(folder / "models/blobgan/square", folder / "real.npz", CPU, folder=photos)
    assert written == measure_generator(model, reference, Sampling(COUNT, 5, 0.25))
    assert written["statistics"] == "real.npz"
    settings = [written[name] for name in ("images", "real_images", "network", "setup", "seed", "truncation")]
    assert settings == [COUNT, 30, "parser", "square", 5, 0.25]
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert list(printed) == list(written)
    assert float(printed["fd_parser"]) == pytest.approx(written["fd_parser"], rel=1e-4)
    assert float(printed["kd_parser"]) == pytest.approx(written["kd_parser"], rel=1e-4)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")  # by clean-fid
def test_clean_fid_statistics(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compressed mu and sigma, as the published script writes them: without setup and number of images."""

    def features(images: Tensor) -> Tensor:
        return torch.cat([few_features(images), images[:, :, 0, 0].double()], dim=1)

    asked = []

    def loading(network: str, *_: object) -> object:
        asked.append(network)
        return features

    monkeypatch.setattr(generator, "load_features", loading)
    real = features(torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8)).numpy()
    stats = folder / "bdd_rect_256_clean_custom_na.npz"
    np.savez_compressed(stats, mu=real.mean(0), sigma=np.cov(real, rowvar=False))
    assert run(monkeypatch, folder, "--stats", stats, "--out", folder / "fid.json") == 0
    written = json.loads((folder / "fid.json").read_text())
    assert asked == ["inception_clean"] and written["statistics"] == stats.name and written["setup"] == "square"
    assert written["real_images"] is None and "real_images: unknown\n" in capsys.readouterr().out
    model = load_blobgan(folder / "models/blobgan/square")
    made = features(torch.tensor(bytes_by_numpy(model, COUNT, 0, 0.0)).byte())
    expected = cleanfid.fid.frechet_distance(
        made.numpy().mean(0), np.cov(made.numpy(), rowvar=False), real.mean(0), np.cov(real, rowvar=False)
    )
    assert written["fid_clean"] == pytest.approx(expected, rel=1e-6)
    legacy = stats.rename(folder / "bdd_rect_256_legacy_pytorch_custom_na.npz")
    message = refused(monkeypatch, capsys, folder, "--stats", legacy)
    assert "is of clean-fid's mode legacy_pytorch: give statistics of its mode clean" in message


def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object
) -> str:
    """The one line of an error that is raised before anything is generated."""

    def sample(*_: object) -> None:
        raise AssertionError("images were generated")

    monkeypatch.setattr(generator, "sample_images", sample)
    assert run(monkeypatch, folder, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("blobex: ") and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stats", "none.npz"], "no Frechet statistics in none.npz: run `dvc repro fid_stats`"),
        (["--checkpoint", "none"], "no blobgan weights in none: run `dvc repro blobgan`"),
        (["--network", "inception"], "is of parser features, not of inception"),
        (["-n", "1"], "two images or more, not 1"),
        (["--batch-size", "0"], "the batch size is 0"),
        (["--truncation", "1.5"], "the truncation is 1.5"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--kid", "none"], "there is no folder none"),
    ],
)
def test_invalid_options_raise_at_once(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert message in refused(monkeypatch, capsys, folder, *arguments)


def test_too_few_images_for_a_kernel_distance_raise_at_once(
    folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "not 3 and the 10" in refused(monkeypatch, capsys, folder, "--kid", photos, "-n", 3)
    for index in range(7):
        (photos / f"{index}.png").unlink()
    assert "not 21 and the 3" in refused(monkeypatch, capsys, folder, "--kid", photos)


def test_files_of_different_runs_raise_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = folder / "blobgan_256x512.ckpt"
    published.write_bytes(b"weights")
    message = refused(monkeypatch, capsys, folder, "--checkpoint", published)
    assert f"is a file: run `blobex import {published} --as generator" in message
    save_statistics(folder / "rect.npz", real_statistics("rect"))
    message = refused(monkeypatch, capsys, folder, "--stats", folder / "rect.npz")
    assert "rect.npz is of rect images but" in message and "of square" in message
    wider = Parser([4, 8], 16, 16)
    weights.save(folder / "models/parser/square", "parser", wider.config, wider)
    assert "has 10 features an image but the parser gives 12" in refused(monkeypatch, capsys, folder)
    larger = random_blobgan(tiny_network(channels={8: 8, 16: 4, 32: 4}), height=32)
    weights.save(folder / "models/blobgan/square", "blobgan", larger.config(), larger)
    assert "is for 16x16 images but the generator makes 32x32" in refused(monkeypatch, capsys, folder)
    (folder / "models/parser/square/config.yaml").unlink()
    assert "no parser weights in" in refused(monkeypatch, capsys, folder)


def test_a_file_that_cannot_be_written_raises(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured if possible; otherwise the measures are printed first, so that they are not lost."""
    assert run(monkeypatch, folder, "--out", folder / "models") == 1
    printed = capsys.readouterr()
    assert not printed.out and f"cannot write {folder / 'models'}" in printed.err

    def full(*_: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert run(monkeypatch, folder, "--out", folder / "measures.json") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("fd_parser: ") and f"cannot write {folder / 'measures.json'}" in printed.err
    assert not list(folder.glob(".*"))
