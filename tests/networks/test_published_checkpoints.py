"""Published checkpoints of other sizes than the golden ones, and damaged ones."""

import re

import pytest
import torch
import torchvision
from worlds.published_form import (
    NETWORKS,
    checkpoint_of,
    discriminator_from_published,
    published_decision,
    published_residual,
)
from worlds.tiny_networks import TINY, random_blobgan, randomise, tiny_network

from blobex.core.errors import BlobexError
from blobex.networks import published_checkpoints as published
from blobex.networks.decision import DecisionModel
from blobex.networks.encoder import Encoder, ResidualNetwork
from blobex.scenes.rules import ACTIONS, REASONS


@pytest.mark.parametrize(("network", "height", "aspect_ratio"), NETWORKS)
def test_generator_of_any_size(network, height, aspect_ratio):
    model = random_blobgan(network, height, aspect_ratio, seed=7)
    imported = published.generator_from_checkpoint(checkpoint_of(model))
    z = torch.randn(2, network.z_dim, generator=torch.Generator().manual_seed(0))
    layout = model.sample(z)
    assert torch.equal(imported.sample(z).features, layout.features)
    assert torch.equal(imported.render(layout), model.render(layout))
    assert not any(parameter.requires_grad for parameter in imported.parameters())
    for name in ("blobs", "size_in", "feature_dim", "style_dim", "z_dim", "layout_hidden", "layout_layers", "channels"):
        assert getattr(imported.network, name) == getattr(network, name), name
    assert imported.network.norm_features == network.norm_features
    assert (imported.height, imported.width) == (height, height * aspect_ratio)


@pytest.mark.parametrize("aspect_ratio", [1, 2])
@pytest.mark.parametrize("channels", [{4: 8, 8: 6, 16: 4}, {4: 3, 8: 4, 16: 5, 32: 6}])
def test_discriminator_and_encoder_of_any_size(aspect_ratio, channels):
    height = max(channels)
    image = torch.randn(3, 3, height, height * aspect_ratio, generator=torch.Generator().manual_seed(0))
    discriminator = randomise(ResidualNetwork(channels, aspect_ratio, 1, standard_deviation=True))
    imported = discriminator_from_published(published_residual(discriminator))
    assert torch.equal(imported(image), discriminator(image))
    encoder = randomise(ResidualNetwork(channels, aspect_ratio, 11, standard_deviation=False))
    imported = published.encoder_from_state(published_residual(encoder), mlp_idx=-2)
    assert isinstance(imported, Encoder) and torch.equal(imported(image), encoder(image))
    expected = {"channels": channels, "height": height, "aspect_ratio": aspect_ratio, "w_size": 11, "mlp_idx": -2}
    assert imported.config == {"architecture": "stylegan", **expected}


@pytest.fixture
def checkpoint():
    return checkpoint_of(random_blobgan())


def without(name):
    return lambda checkpoint: checkpoint["state_dict"].pop(name)


def replaced(name, tensor):
    return lambda checkpoint: checkpoint["state_dict"].update({name: tensor})


DAMAGES = [
    (lambda checkpoint: checkpoint.pop("state_dict"), "no state_dict"),
    (lambda checkpoint: checkpoint.update(state_dict={}), "no generator_ema"),
    (lambda checkpoint: checkpoint.update(state_dict=[1]), "no state_dict"),
    (lambda checkpoint: checkpoint.pop("hyper_parameters"), "resolution"),
    (lambda checkpoint: checkpoint["hyper_parameters"].pop("resolution"), "resolution"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution="big"), "resolution is 'big'"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution=0), "size_in is 0"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution=1), "size_in is 0"),
    (lambda checkpoint: checkpoint["hyper_parameters"].update(resolution=17), "up to 17, the height"),
    (lambda checkpoint: checkpoint.update(hyper_parameters=None), "name no resolution"),
    (without("generator_ema.conv1.conv.weight"), "conv1.conv.weight"),
    (without("generator_ema.to_rgbs.0.bias"), "rgbs.0.bias"),
    (without("generator_ema.convs.1.noise.weight"), "noise_weight"),
    (without("layout_net_ema.mlp.1.weight"), "mlp.1.weight|mlp.4.weight"),
    (without("layout_net_ema.mlp.2.bias"), "layers.1.bias"),
    (replaced("generator_ema.convs.0.activate.bias", torch.zeros(99)), "size mismatch"),
    (replaced("generator_ema.convs.0.conv.weight", 3), "published form"),
    (replaced("generator_ema.spare.weight", torch.zeros(1)), "unknown tensor spare.weight"),
    (replaced("layout_net_ema.mlp.4.weight", torch.zeros(50, 12)), "published form"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=range(len(DAMAGES)))
def test_damaged_generator_is_refused_in_one_sentence(checkpoint, damage, words):
    damage(checkpoint)
    with pytest.raises(BlobexError, match=words) as caught:
        published.generator_from_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["convs.0.0.weight", "convs.1.skip.1.weight", "final_linear.0.weight"])
def test_damaged_encoder_is_refused(name):
    state = published_residual(ResidualNetwork(TINY.discriminator_channels, 1, 1, standard_deviation=False))
    del state[name]
    with pytest.raises(BlobexError, match="published form"):
        published.encoder_from_state(state)


def test_discriminator_is_not_an_encoder():
    """A discriminator has one more channel, the standard deviation."""
    state = published_residual(ResidualNetwork(TINY.discriminator_channels, 1, 1, standard_deviation=True))
    with pytest.raises(BlobexError, match="final_conv"):
        published.encoder_from_state(state)


def test_settings_that_do_not_follow_from_the_tensors():
    model = random_blobgan(tiny_network(norm_features=False))
    bare = checkpoint_of(model)
    z = torch.randn(2, model.z_dim, generator=torch.Generator().manual_seed(0))

    def imported(**settings):
        return published.generator_from_checkpoint({**bare, "hyper_parameters": settings})

    plain = {"layout_net": {"norm_features": False}}
    for settings in (
        {"resolution": "${generator.size}", "generator": {"size": 16}},
        {"generator": {"size_in": 8}},
        {"resolution": 16, "ab_norm": 0.02},
    ):
        again = imported(**settings, **plain)
        assert torch.equal(again.sample(z).features, model.sample(z).features)
        assert (again.height, again.aspect_ratio) == (16, 1)
    assert not imported(resolution=16).network.norm_features  # as in the published code
    assert imported(resolution=16).network.blob_area == 0.02
    assert imported(resolution=16, ab_norm=0.03).generator.canvas.area == 0.03


def test_learning_rate_multiplier_is_a_factor_of_the_layout_networks_weights():
    """A layer uses weight times multiplier, so twice the multiplier needs half the weight."""
    model = random_blobgan()
    checkpoint = checkpoint_of(model)
    for name, tensor in checkpoint["state_dict"].items():
        if name.startswith("layout_net_ema."):
            checkpoint["state_dict"][name] = tensor / 2
    checkpoint["hyper_parameters"]["layout_net"]["mlp_lr_mul"] = 0.02
    z = torch.randn(2, model.z_dim, generator=torch.Generator().manual_seed(0))
    again = published.generator_from_checkpoint(checkpoint)
    torch.testing.assert_close(again.sample(z).features, model.sample(z).features)


@pytest.mark.parametrize(("size_in", "aspect_ratio"), [(4, 1), (4, 2), (8, 2)])
def test_noise_maps_are_those_that_the_published_code_draws(size_in, aspect_ratio):
    """It seeds torch with 0 after loading; the file's maps, which start at 4 pixels, would fit if size_in is 4."""
    channels = {height: 4 for height in (4, 8, 16) if height >= size_in}
    model = random_blobgan(tiny_network(channels=channels, size_in=size_in, rectangle="legacy"), 16, aspect_ratio)
    checkpoint = checkpoint_of(model)
    sizes = [4, *(height for height in (8, 16) for _ in range(2))]
    for index, height in enumerate(sizes):
        noise = torch.full((1, 1, height, height * aspect_ratio), 9.0)
        checkpoint["state_dict"][f"generator_ema.noises.noise_{index}"] = noise
    imported = published.generator_from_checkpoint(checkpoint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        doubled = [size_in * 2 ** ((index + 1) // 2) for index in range(2 * len(channels) - 1)]
        drawn = [torch.randn(1, 1, height, height * aspect_ratio) for height in doubled]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(imported.fixed_noise(), drawn, strict=True))


@pytest.mark.parametrize("holder", ["", "module.", "encoder.", "module.encoder."])
@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_encoder_is_found_under_any_key(holder, key):
    network = randomise(ResidualNetwork(TINY.discriminator_channels, 1, 11, standard_deviation=False))
    state = {f"{holder}{name}": tensor for name, tensor in published_residual(network).items()}
    checkpoint = state if key is None else {key: state, "optim": {}}
    assert published.kinds(checkpoint) == ["encoder"]
    image = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(published.encoder_from_checkpoint(checkpoint)(image), network(image))


def test_two_encoders_are_ambiguous():
    state = published_residual(ResidualNetwork(TINY.discriminator_channels, 1, 11, standard_deviation=False))
    both = {f"{holder}{name}": tensor for name, tensor in state.items() for holder in ("encoder.", "module.encoder.")}
    with pytest.raises(BlobexError, match="more than one encoder"):
        published.encoder_from_checkpoint({"state_dict": both})


@pytest.mark.parametrize("key", ["", "args", "config", "hyper_parameters"])
def test_mlp_idx_of_the_file(key):
    state = published_residual(ResidualNetwork(TINY.discriminator_channels, 1, 11, standard_deviation=False))
    settings = {"mlp_idx": -3}
    assert published.encoder_from_checkpoint({"model": state, **({key: settings} if key else settings)}).mlp_idx == -3
    assert published.encoder_from_checkpoint({"model": state, "args": {"mlp_idx": None}}).mlp_idx == -1
    assert published.encoder_from_checkpoint({"model": state}, mlp_idx=-2).mlp_idx == -2
    with pytest.raises(BlobexError, match=r"its mlp_idx is -3, not -2: leave --mlp-idx out"):
        published.encoder_from_checkpoint({"model": state, "mlp_idx": -3}, mlp_idx=-2)
    with pytest.raises(BlobexError, match=r"its setting mlp_idx is -1\.5: blobex needs a whole number"):
        published.encoder_from_checkpoint({"model": state, "mlp_idx": -1.5})


def test_encoder_of_a_fractional_aspect_ratio_is_refused_by_name():
    network = ResidualNetwork(TINY.discriminator_channels, 2, 11, standard_deviation=False)
    state = published_residual(network)
    hidden = state["final_linear.0.weight"]
    state["final_linear.0.weight"] = hidden[:, : hidden.shape[1] * 3 // 4]
    with pytest.raises(BlobexError, match=r"its aspect_ratio is 1\.5: blobex needs a whole number"):
        published.encoder_from_state(state)


def random_decision(outputs=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DecisionModel("densenet_small", 32, 32, outputs)
    return randomise(model, spread=0.1).eval().requires_grad_(False)


IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("holder", ["", "module."])
@pytest.mark.parametrize("body", ["feat_extract.feat_extract.", "feat_extract.features.", "features.", ""])
@pytest.mark.parametrize("outputs", [4, 25])
def test_decision_model(holder, body, outputs):
    model = random_decision(outputs)
    checkpoint = published_decision(model, body, holder)
    assert published.kinds(checkpoint) == ["decision"]
    imported = published.decision_from_checkpoint(checkpoint, 32, 32)
    assert torch.equal(imported(IMAGE), model(IMAGE)) and not imported.training
    assert imported.output_names == (ACTIONS if outputs == 4 else ACTIONS + REASONS)


def test_reasons_of_a_separate_classifier():
    model = random_decision(25)
    checkpoint = published_decision(model)
    state = checkpoint["model_state_dict"]
    for part in ("weight", "bias"):
        rows = state.pop(f"classifier.{part}")
        state |= {f"classifier.{part}": rows[:4], f"reason_classifier.{part}": rows[4:]}
    assert torch.equal(published.decision_from_checkpoint(checkpoint, 32, 32)(IMAGE), model(IMAGE))


@pytest.mark.parametrize("body", ["feat_extract.feat_extract.", ""])
def test_actions_of_a_model_with_an_explainer(body):
    """The published model that gives 21 reasons derives them from its features and actions, in another layer."""
    model = random_decision()
    checkpoint = published_decision(model, body)
    features = model.classifier.in_features
    explainer = {"explainer.weight": torch.ones(21, features + 4), "explainer.bias": torch.zeros(21)}
    checkpoint["model_state_dict"] |= explainer
    imported = published.decision_from_checkpoint(checkpoint, 32, 32)
    assert torch.equal(imported(IMAGE), model(IMAGE)) and imported.output_names == ACTIONS


def test_densenet121_is_torchvisions_also_under_its_first_names():
    torch.manual_seed(0)
    densenet = torchvision.models.densenet121(num_classes=4).eval()
    old = {
        re.sub(r"(norm|conv)([12])", r"\1.\2", name) if "denselayer" in name else name: tensor
        for name, tensor in densenet.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    for state in (densenet.state_dict(), old):
        imported = published.decision_from_checkpoint({"model_state_dict": state}, 32, 64)
        assert imported.config["architecture"] == "densenet121"
        torch.testing.assert_close(imported(IMAGE), densenet(IMAGE))


DECISION_DAMAGES = [
    (lambda state: state.pop("classifier.bias"), "classifier.bias"),
    (lambda state: state.pop("feat_extract.feat_extract.norm5.weight"), "norm5.weight"),
    (lambda state: state.pop("feat_extract.feat_extract.conv0.weight"), "holds no decision"),
    (lambda state: state.pop("feat_extract.feat_extract.denseblock2.denselayer3.conv1.weight"), r"\[2, 3, 8, 4\]"),
    (lambda state: state.update({"attention.weight": torch.zeros(1)}), "unknown tensor attention.weight"),
    (lambda state: state.update({"classifier.0.weight": torch.zeros(1)}), "two tensors"),
    (lambda state: state.update({"classifier.weight": torch.zeros(7, 10)}), "cannot have 7 outputs"),
]


@pytest.mark.parametrize(("damage", "words"), DECISION_DAMAGES, ids=range(len(DECISION_DAMAGES)))
def test_damaged_decision_model_is_refused(damage, words):
    checkpoint = published_decision(random_decision())
    damage(checkpoint["model_state_dict"])
    with pytest.raises(BlobexError, match=words) as caught:
        published.decision_from_checkpoint(checkpoint, 32, 32)
    assert "\n" not in str(caught.value)
