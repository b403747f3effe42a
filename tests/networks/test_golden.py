"""Outputs of the published code (tests/golden/README.md), reproduced to 1e-4."""

from pathlib import Path

import pytest
import torch
from worlds.published_form import discriminator_from_published

from blobex.layout.blobs import KEYS, from_dict
from blobex.networks import published_checkpoints as published

FOLDER = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.fixture(scope="module", params=["square", "rect"])
def golden(request):
    return torch.load(FOLDER / f"blobgan_tiny_{request.param}.pt", weights_only=True)


@pytest.fixture(scope="module")
def model(golden):
    return published.generator_from_checkpoint(golden["checkpoint"])


def test_w_and_layout(golden, model):
    w = model.layout_network.to_w(golden["z"])
    assert relative_error(w, golden["w"]) < TOLERANCE
    layout = model.layout_from_w(w)
    for key in KEYS:
        assert relative_error(getattr(layout, key), golden["layout"][key]) < TOLERANCE, key


def test_feature_grid_image_and_gradient(golden, model):
    layout = from_dict({key: tensor.clone().requires_grad_() for key, tensor in golden["layout"].items()})
    grids = []
    handle = model.generator.first.register_forward_pre_hook(lambda module, inputs: grids.append(inputs[0]))
    image = model.render(layout, golden["noise"])
    handle.remove()
    assert relative_error(grids[0], golden["feature_grid"]) < TOLERANCE
    assert relative_error(image, golden["image"]) < TOLERANCE
    (image * golden["probe"]).sum().backward()
    for key in KEYS:
        assert relative_error(getattr(layout, key).grad, golden["grad"][key]) < TOLERANCE, key


def filled(shapes, seed):
    """Draw all parameters in the order of their names; filter kernels are not parameters."""
    random = torch.Generator().manual_seed(seed)
    names = sorted(name for name in shapes if not name.endswith("kernel"))
    return {name: torch.randn(tuple(shapes[name]), generator=random) for name in names}


def test_discriminator(golden):
    state = filled(golden["discriminator"]["shapes"], golden["discriminator"]["fill_seed"])
    discriminator = discriminator_from_published(state)
    assert relative_error(discriminator(golden["image"]), golden["discriminator_logits"]) < TOLERANCE


def test_encoder(golden):
    state = filled(golden["encoder"]["shapes"], golden["encoder"]["fill_seed"])
    encoder = published.encoder_from_state(state)
    assert relative_error(encoder(golden["image"]), golden["encoder_out"]) < TOLERANCE
