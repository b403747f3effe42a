"""Networks as loaded: two precisions, and decision models of any origin."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from worlds.tiny_models import HEIGHT, NETWORK, WIDER, WIDTH, save_models, smooth_images
from worlds.tiny_networks import random_blobgan, random_layout

from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.explain.loading import LoadedNetworks, check_size, load_networks
from blobex.layout.splat import splat, splat_by_solver
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import load_decision
from blobex.networks.encoder import load_encoder
from blobex.networks.generator import ModulatedConv

CPU = torch.device("cpu")


class Camera(nn.Module):
    """Somebody's model: three classes, in training mode, whose parameters ask for gradients."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
            self.head = nn.Linear(8, 3)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        return self.head(self.body(images).mean((2, 3)))


def load(folder: Path, model: object = "plain", mode: str = "fast", **options: str) -> LoadedNetworks:
    params = load_params(save_models(folder, **options) / "params.yaml")  # type: ignore[arg-type]
    search = dataclasses.replace(params.search, mode=mode)
    return load_networks("rect", folder / "models", dataclasses.replace(params, search=search), CPU, model)  # type: ignore[arg-type]


def test_networks_are_those_that_were_saved(tmp_path: Path) -> None:
    networks = load(tmp_path).exact
    images, models = smooth_images(5), tmp_path / "models"
    w = load_encoder(models / "encoder/rect", "encoder")(images)
    blobgan = load_blobgan(models / "blobgan/rect")
    layout = blobgan.layout_from_w(w)
    close = {"rtol": 1e-4, "atol": 1e-5}  # how numbers lie in memory rounds otherwise
    for key, tensor in networks.encode(images).items():
        torch.testing.assert_close(tensor, getattr(layout, key), **close)
    torch.testing.assert_close(networks.render(layout), blobgan.render(layout), **close)
    model = load_decision(models / "decision/rect/plain")
    torch.testing.assert_close(networks.decide(images), model(images), **close)
    torch.testing.assert_close(networks.features(images), model.features(images), **close)


def test_float32_shares_one_set_of_networks(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.quick is loaded.exact
    assert loaded.decision.kind == "attributes" and loaded.decision.outputs == ("forward", "stop", "left", "right")


def test_quick_networks_approximate_exact_ones(tmp_path: Path) -> None:
    loaded, images = load(tmp_path, network=WIDER, precision="bfloat16"), smooth_images(6)
    exact, quick = loaded.exact, loaded.quick
    layout = exact.encode(images)
    embedded = exact.perceptual.embed(images)
    pairs = {
        "render": (exact.render(layout), quick.render(layout)),
        "decide": (exact.decide(images), quick.decide(images)),
        "features": (exact.features(images), quick.features(images)),
        "perceptual": (
            exact.perceptual.distance_to(embedded, images.flip(3)),
            quick.perceptual.distance_to(quick.perceptual.embed(images), images.flip(3)),
        ),
    }
    for name, (right, near) in pairs.items():
        assert near.dtype == torch.float32, name
        error = (right - near).abs().max() / right.abs().max()
        assert 0 < error < 0.06, name  # bfloat16 has eight bits


def test_exact_networks_do_not_depend_on_the_quick_ones(tmp_path: Path) -> None:
    single, both = load(tmp_path / "a"), load(tmp_path / "b", precision="bfloat16")
    layout = single.exact.encode(smooth_images(4))
    assert torch.equal(single.exact.render(layout), both.exact.render(layout))
    assert torch.equal(single.exact.decide(smooth_images(4)), both.exact.decide(smooth_images(4)))


def test_the_decision_gets_displayable_images_but_as_published(tmp_path: Path) -> None:
    model = Camera()
    networks, published = (load(tmp_path / mode, model, mode).exact for mode in ("fast", "published"))
    model.seen.clear()
    shown = networks.decide(torch.full((4, 3, HEIGHT, WIDTH), 3.0))
    assert torch.equal(shown, networks.decide(torch.ones(4, 3, HEIGHT, WIDTH)))
    networks.features(torch.full((4, 3, HEIGHT, WIDTH), -3.0))
    assert [images.abs().max().item() for images in model.seen] == [1.0] * len(model.seen)
    model.seen.clear()
    for function in (published.decide, published.features):
        function(torch.full((4, 3, HEIGHT, WIDTH), -3.0))
    assert {images.min().item() for images in model.seen} == {-3.0}


def test_images_are_channels_last(tmp_path: Path) -> None:
    model = Camera()
    networks = load(tmp_path, model).exact
    networks.decide(smooth_images(4))
    assert model.seen[-1].is_contiguous(memory_format=torch.channels_last)
    assert networks.render(networks.encode(smooth_images(4))).shape == (4, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["fast", "published"])
def test_an_external_model_is_not_modified(tmp_path: Path, precision: str, mode: str) -> None:
    model = Camera()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loaded = load(tmp_path, model, mode, precision=precision)
    assert loaded.decision.modules == (model,)
    for networks in (loaded.exact, loaded.quick):
        networks.decide(smooth_images(4)), networks.features(smooth_images(4))
    assert loaded.decision.kind == "classes" and loaded.decision.outputs == ("0", "1", "2")
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    weights = {name for name, _ in model.named_parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items() if name in weights)


def test_published_mode_agrees_with_fast_mode(tmp_path: Path) -> None:
    fast, published = load(tmp_path / "fast"), load(tmp_path / "published", mode="published")
    assert published.quick is published.exact
    images = smooth_images(4)
    layout = published.exact.encode(images).detach()
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(fast.exact.render(layout), published.exact.render(layout), **close)
    torch.testing.assert_close(fast.exact.decide(images), published.exact.decide(images), **close)
    torch.testing.assert_close(fast.exact.features(images), published.exact.features(images), **close)
    image = published.exact.render(layout)
    assert image.requires_grad and published.exact.decide(images).requires_grad  # weights ask for gradients
    assert not fast.exact.render(layout).requires_grad


@pytest.mark.parametrize("rectangle", ["native", "legacy"])
def test_folded_weights_render_the_same(rectangle: str) -> None:
    blobgan = random_blobgan(dataclasses.replace(WIDER, rectangle=rectangle), HEIGHT, 2)
    layout = random_layout(3, WIDER.blobs, WIDER.feature_dim, dtype=torch.float32)
    layout = layout.replace({"spatial_style": layout.spatial_style[:, :, : WIDER.style_dim]})
    state = {name: tensor.clone() for name, tensor in blobgan.state_dict().items()}
    unfolded = blobgan.render(layout)
    blobgan.generator.fold(torch.float32)
    torch.testing.assert_close(blobgan.render(layout), unfolded, rtol=1e-6, atol=1e-6)
    assert list(blobgan.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in blobgan.state_dict().items())
    again = random_blobgan(dataclasses.replace(WIDER, rectangle=rectangle), HEIGHT, 2, seed=5)
    again.load_state_dict(state)  # a folded network's weights are another's too
    torch.testing.assert_close(again.render(layout), unfolded, rtol=1e-6, atol=1e-6)


def test_folding_uses_the_given_precision() -> None:
    blobgan = random_blobgan(NETWORK, HEIGHT, 2)
    blobgan.generator.fold(torch.bfloat16)
    folded = [part.folded for part in blobgan.modules() if isinstance(part, ModulatedConv)]
    assert folded and all(weight is not None and weight.dtype == torch.bfloat16 for weight in folded)
    assert all(parameter.dtype == torch.float32 for parameter in blobgan.parameters())


def test_score_maps_may_come_from_the_solver() -> None:
    blobgan = random_blobgan(NETWORK, HEIGHT, 2)
    layout = random_layout(2, NETWORK.blobs, NETWORK.feature_dim, dtype=torch.float32)
    assert blobgan.generator.splat is splat
    painted = blobgan.render(layout)
    blobgan.generator.splat = splat_by_solver
    torch.testing.assert_close(blobgan.render(layout), painted, rtol=1e-3, atol=1e-3)


def test_sizes_are_checked(tmp_path: Path) -> None:
    folder = save_models(tmp_path) / "models/blobgan/rect"
    check_size(folder, "blobgan", "rect", HEIGHT, WIDTH)
    for height, width in ((HEIGHT, HEIGHT), (64, 128)):
        with pytest.raises(BlobexError, match=f"is for 32x64 images but rect has {height}x{width}"):
            check_size(folder, "blobgan", "rect", height, width)
    with pytest.raises(BlobexError, match="no blobgan weights"):
        check_size(tmp_path, "blobgan", "rect", HEIGHT, WIDTH)


def test_a_card_sets_the_input_of_our_network(tmp_path: Path) -> None:
    save_models(tmp_path, precision="bfloat16")
    card = tmp_path / "card.yaml"
    card.write_text("model: models/decision/rect/plain\nmean: [0.2, 0.3, 0.4]\nstd: [0.4, 0.2, 0.3]\n")
    loaded, images = load(tmp_path, str(card), precision="bfloat16"), smooth_images(4)
    scaled = ((images + 1) / 2 - torch.tensor([0.2, 0.3, 0.4])[:, None, None]) / torch.tensor([0.4, 0.2, 0.3])[
        :, None, None
    ]
    expected = load_decision(tmp_path / "models/decision/rect/plain")(scaled)
    torch.testing.assert_close(loaded.exact.decide(images), expected, rtol=1e-4, atol=1e-5)
    assert loaded.quick is not loaded.exact
    torch.testing.assert_close(loaded.quick.decide(images), expected, rtol=0.05, atol=0.05)


def test_an_external_model_keeps_its_precision(tmp_path: Path) -> None:
    loaded = load(tmp_path, Camera(), precision="bfloat16")
    images = smooth_images(4)
    assert torch.equal(loaded.quick.decide(images), loaded.exact.decide(images))
