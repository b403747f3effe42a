"""The perceptual distance: against the package lpips, and its properties."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.networks.external import FILES
from blobex.networks.parser import Parser
from blobex.networks.perceptual import BACKBONES, PerceptualDistance, load_perceptual, perceptual_name


@pytest.fixture(scope="module")
def distance(tmp_path_factory) -> PerceptualDistance:
    folder = tmp_path_factory.mktemp("parser")
    torch.manual_seed(0)
    weights.save(folder, "parser", {"channels": [4, 6], "height": 16, "width": 32}, Parser([4, 6], 16, 32))
    return load_perceptual("parser", folder)


def images(seed: int, count: int = 3, height: int = 16, width: int = 32) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_distance_is_0_for_identical_images_only(distance: PerceptualDistance) -> None:
    a, b = images(0), images(1)
    assert torch.equal(distance(a, a), torch.zeros(3))
    assert (distance(a, b) > 0).all() and distance(a, b).shape == (3,)
    torch.testing.assert_close(distance(a, b), distance(b, a))
    nearer = distance(a, a + 0.1 * (b - a))
    assert (nearer < distance(a, b)).all()


def test_embedding_and_batches_do_not_change_distances(distance: PerceptualDistance) -> None:
    a, b = images(0), images(1)
    embedded = distance.embed(a)
    for layer in embedded:
        torch.testing.assert_close(layer.norm(dim=1), torch.ones_like(layer[:, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(distance.distance_to(embedded, b), distance.distance(a, b))
    single = torch.cat([distance(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(distance(a, b), single)


def test_gradients_reach_the_image_but_not_the_network(distance: PerceptualDistance) -> None:
    a = images(0).requires_grad_()
    distance(a, images(1)).sum().backward()
    assert a.grad is not None and a.grad.isfinite().all() and (a.grad != 0).any()
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_gradient_is_finite_where_all_channels_are_zero() -> None:
    flat = PerceptualDistance(torch.nn.Identity(), lambda x: [x.relu()])
    a = torch.full((1, 3, 4, 4), -0.5).requires_grad_()
    flat(a, images(0, 1, 4, 4)).sum().backward()
    assert a.grad is not None and a.grad.isfinite().all()


def test_by_hand() -> None:
    # one layer of two channels at two positions: (3,4)/5 against (1,0), and equal directions
    layer = PerceptualDistance(torch.nn.Identity(), lambda x: [x], [torch.tensor([2.0, 1.0])])
    a, b = torch.tensor([[[[3.0, 1.0]], [[4.0, 1.0]]]]), torch.tensor([[[[1.0, 7.0]], [[0.0, 7.0]]]])
    # (2*(0.6-1)^2 + (0.8-0)^2 + 0) / 2 positions
    assert layer(a, b).item() == pytest.approx((2 * 0.16 + 0.64) / 2, abs=1e-6)


@pytest.mark.parametrize(("network", "parent"), [("alex", "models/external"), ("squeeze", "hub/checkpoints")])
def test_equals_the_package_lpips(network: str, parent: str, tmp_path: Path, monkeypatch) -> None:
    import lpips

    external = tmp_path / "models" / "external"
    path = tmp_path / parent / FILES[network].name
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        BlobexError, match=rf"{FILES[network].name} is missing: put torchvision's weights .* at {external}"
    ):
        load_perceptual(network, tmp_path, external)
    torch.manual_seed(0)
    body = torchvision.models.get_model(BACKBONES[network].name, weights=None)
    path.parent.mkdir(parents=True)
    torch.save(body.state_dict(), path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=network, pnet_rand=True, verbose=False)
    names = list(theirs.net.state_dict())
    theirs.net.load_state_dict(dict(zip(names, body.get_submodule("features").state_dict().values(), strict=True)))
    ours = load_perceptual(network, tmp_path, external)
    a, b = images(0, 2, 64, 64), images(1, 2, 64, 64)
    torch.testing.assert_close(ours(a, b), theirs(a, b).flatten(), rtol=1e-3, atol=1e-6)


def test_errors_name_damaged_and_unknown_networks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / FILES["vgg"].name
    path.write_text("nothing")
    with pytest.raises(BlobexError, match="is damaged"):
        load_perceptual("vgg", tmp_path, tmp_path)
    torch.save({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(BlobexError, match="holds no weights of vgg: put torchvision's weights of vgg there"):
        load_perceptual("vgg", tmp_path, tmp_path)
    with pytest.raises(BlobexError, match="unknown perceptual network"):
        load_perceptual("resnet", tmp_path)
    with pytest.raises(BlobexError, match="no parser weights"):
        load_perceptual("parser", tmp_path)


def test_names() -> None:
    assert [perceptual_name(network) for network in ("parser", *BACKBONES)] == [
        "pd_parser",
        "lpips_vgg",
        "lpips_alex",
        "lpips_squeeze",
    ]
