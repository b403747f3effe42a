"""Feature networks: the parser, and Inception against PIL and clean-fid, with stand-ins for its weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.features import InceptionV3W
from PIL import Image
from torch import Tensor, nn

from blobex.core.errors import BlobexError
from blobex.metrics.frechet import frechet_distance, load_features, resize_clean, resize_fast, statistics
from blobex.networks import weights
from blobex.networks.parser import Parser

CPU = torch.device("cpu")
FILE = "inception-2015-12-05.pt"


def noise(height: int = 20, width: int = 36) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8, generator=random)


def test_parser_features_distinguish_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights.save(tmp_path, "parser", {"channels": [4, 6], "height": 16, "width": 32}, Parser([4, 6], 16, 32))
    network = load_features("parser", tmp_path, CPU)
    images = torch.randint(0, 256, (40, 3, 16, 32), dtype=torch.uint8)
    plain, dark = (statistics(batch.split(7), network, "parser", "rect") for batch in (images, images // 4))
    same = statistics(images.split(16), network, "parser", "rect")
    assert plain.mean.shape == (10,)
    assert frechet_distance(plain, same) < 1e-6 < frechet_distance(plain, dark)
    with pytest.raises(BlobexError, match="unknown feature network"):
        load_features("resnet", tmp_path, CPU)


class Layers(nn.Module):
    """A stand-in for Inception's layers: the first 2048 numbers of images of 299x299 in [-1,1]."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 299, 299)
        return x.flatten(1)[:, :2048]


class StandIn(nn.Module):
    """The interface of NVIDIA's file: its `layers` take resized and scaled images."""

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
        torch.jit.script(StandIn()).save(str(folder / FILE))
    return folder


def resized_by_pil(images: Tensor) -> Tensor:
    """clean-fid's definition: each channel by PIL's bicubic filter in float, limited to 0..255."""
    channels = images.flatten(0, 1).numpy().astype(np.float32)
    resized = [np.asarray(Image.fromarray(one).resize((299, 299), Image.Resampling.BICUBIC)) for one in channels]
    return torch.from_numpy(np.stack(resized)).clamp(0, 255).unflatten(0, (len(images), 3))


def test_clean_resize_equals_pil_and_fast_resize_is_close() -> None:
    assert torch.equal(resize_clean(noise()), resized_by_pil(noise()))
    torch.testing.assert_close(resize_fast(noise()), resized_by_pil(noise()), atol=0.1, rtol=0)


def test_clean_features_equal_clean_fid(external: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inception = InceptionV3W(str(external), download=False)
    features = load_features("inception_clean", external, CPU, external)(noise())
    assert torch.equal(features, inception(resized_by_pil(noise())))
    torch.testing.assert_close(features, ((resized_by_pil(noise()) - 128) / 128).flatten(1)[:, :2048], rtol=0, atol=0)


@pytest.mark.parametrize("network", ["inception", "inception_clean"])
def test_inception_is_loaded_from_the_folder(network: str, external: Path) -> None:
    images = torch.full((2, 3, 16, 32), 192, dtype=torch.uint8)
    features = load_features(network, external, CPU, external)(images)
    torch.testing.assert_close(features, torch.full((2, 2048), 0.5))
    (external / FILE).write_bytes(b"nothing")
    message = f"{external / FILE} is damaged or another network: put NVIDIA's TorchScript file"
    with pytest.raises(BlobexError, match=message):
        load_features(network, external, CPU, external)
    (external / FILE).unlink()
    message = rf"is missing: put NVIDIA's TorchScript file .* at {external / FILE}, or set data\.frechet to parser"
    with pytest.raises(BlobexError, match=message):
        load_features(network, external, CPU, external)
