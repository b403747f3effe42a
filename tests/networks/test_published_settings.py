"""Settings of published BlobGAN files: used, compared, or listed; none is rounded or ignored without a word."""

import copy

import pytest
import torch
from worlds.published_form import checkpoint_of
from worlds.tiny_networks import random_blobgan, tiny_network

from blobex.core.errors import BlobexError
from blobex.networks import published_checkpoints as published

# As the published training writes them: sections are stored with their references to other settings.
SETTINGS = {
    "name": "BlobGAN",
    "lr": 0.002,
    "dim": 12,
    "noise_dim": 16,
    "resolution": 32,
    "aspect_ratio": 2,
    "lambda": {"D_R1": 50, "G_path": 2},
    "\u03bb": {"D_R1": 50, "G_path": 2},
    "discriminator": {"name": "StyleGANDiscriminator", "size": "${model.resolution}"},
    "generator": {
        "name": "models.networks.layoutstylegan.LayoutStyleGANGenerator",
        "style_dim": "${model.dim}",
        "n_mlp": 8,
        "size_in": 8,
        "c_model": 2,
        "spatial_style": "${model.spatial_style}",
        "size": "${model.resolution}",
        "override_c_in": 6,
        "aspect_ratio": "${model.aspect_ratio}",
    },
    "layout_net": {
        "name": "models.networks.layoutnet.LayoutGenerator",
        "n_features_max": "${model.n_features_max}",
        "feature_dim": 6,
        "style_dim": "${model.dim}",
        "noise_dim": "${model.noise_dim}",
        "norm_features": True,
        "mlp_n_layers": 4,
        "mlp_lr_mul": 0.01,
        "mlp_hidden_dim": 20,
        "spatial_style": "${model.spatial_style}",
    },
    "D_reg_every": 16,
    "G_reg_every": -1,
    "log_images_every_n_steps": 1000,
    "n_features_min": 5,
    "n_features_max": 5,
    "spatial_style": True,
    "ab_norm": 0.02,
    "feature_jitter_xy": 0.04,
    "fid_stats_name": "bdd_rect_256",
}


@pytest.fixture(scope="module")
def model():
    sizes = {"blobs": 5, "style_dim": 12, "layout_hidden": 20, "channels": {8: 16, 16: 16, 32: 16}}
    return random_blobgan(tiny_network(rectangle="legacy", **sizes), 32, 2)


def with_settings(model, path="", value=None):
    """The model's checkpoint with SETTINGS, of which one is replaced, or removed if the value is None."""
    settings = copy.deepcopy(SETTINGS)
    *sections, name = path.split(".")
    section = settings[sections[0]] if sections else settings
    section[name] = value
    if not path:
        del section[name]
    return {**checkpoint_of(model), "hyper_parameters": settings}


def without(model, path):
    checkpoint = with_settings(model)
    *sections, name = path.split(".")
    (checkpoint["hyper_parameters"][sections[0]] if sections else checkpoint["hyper_parameters"]).pop(name)
    return checkpoint


def test_published_settings_are_read_through_their_references(model):
    checkpoint = with_settings(model)
    settings = published.generator_settings(checkpoint)
    imported = published.generator_from_checkpoint(checkpoint, settings)
    layout = model.sample(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(imported.render(layout), model.render(layout))
    assert imported.network.norm_features and (imported.height, imported.width) == (32, 64)
    assert settings.used["layout_net.n_features_max"] == 5 and settings.used["generator.style_dim"] == 12
    provenance = settings.provenance()
    assert provenance["unknown"] == [] and provenance["defaults"] == ["generator.channel_multiplier: 2"]
    assert "fid_stats_name" in provenance["unused"] and "feature_jitter_xy" in provenance["unused"]


def test_each_setting_is_listed_once(model):
    checkpoint = with_settings(model, "glow", {"a": 1})
    checkpoint["hyper_parameters"]["layout_net"]["heads"] = 8
    checkpoint["hyper_parameters"]["generator"]["size_in"] = "${dataset.grid}"  # not in the file
    settings = published.generator_settings(checkpoint)
    with pytest.raises(BlobexError, match=r"its setting generator\.size_in is '\$\{dataset\.grid\}'"):
        published.generator_from_checkpoint(checkpoint, settings)
    checkpoint["hyper_parameters"]["generator"]["size_in"] = 8
    checkpoint["hyper_parameters"]["generator"]["style_dim"] = "${dataset.style}"
    settings = published.generator_settings(checkpoint)
    published.generator_from_checkpoint(checkpoint, settings)
    provenance = settings.provenance()
    unknown = ["generator.style_dim: ${dataset.style}", "layout_net.heads: 8", "glow: {'a': 1}"]
    assert provenance["unknown"] == unknown
    listed = [text.split(":")[0] for part in ("settings", "unused", "unknown") for text in provenance[part]]
    tree = checkpoint["hyper_parameters"]
    nested = [f"{name}.{each}" for name in ("generator", "layout_net") for each in tree[name]]
    assert sorted(listed) == sorted([*nested, *(name for name in tree if name not in ("generator", "layout_net"))])


@pytest.mark.parametrize(
    ("path", "default"),
    [("layout_net.norm_features", False), ("ab_norm", 0.02), ("layout_net.mlp_lr_mul", 0.01), ("aspect_ratio", 1)],
)
def test_absent_settings_have_the_published_default(path, default):
    model = random_blobgan(tiny_network(blobs=5, norm_features=False, channels={8: 8, 16: 4, 32: 4}), 32, 1)
    bare = {"resolution": 32, "layout_net": {}}
    checkpoint = {**checkpoint_of(model), "hyper_parameters": bare}
    settings = published.generator_settings(checkpoint)
    imported = published.generator_from_checkpoint(checkpoint, settings)
    assert settings.defaults[path] == default
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    assert not imported.network.norm_features
    assert torch.equal(imported.sample(z).features, model.sample(z).features)


REFUSED = [
    ("aspect_ratio", 1.5, r"its setting aspect_ratio is 1\.5: blobex needs a whole number"),
    ("generator.aspect_ratio", 1.5, r"its setting generator\.aspect_ratio is 1\.5"),
    ("generator.aspect_ratio", 1, r"disagree \(aspect_ratio: 2, generator\.aspect_ratio: 1\)"),
    ("aspect_ratio", "2", "its setting aspect_ratio is '2'"),
    ("aspect_ratio", True, "its setting aspect_ratio is True"),
    ("aspect_ratio", float("nan"), "its setting aspect_ratio is nan"),
    ("resolution", 32.5, r"its setting resolution is 32\.5"),
    ("resolution", None, "its setting resolution is None"),
    ("generator.size", 64, r"disagree \(resolution: 32, generator\.size: 64\)"),
    ("generator.size_in", 16, r"its setting generator\.size_in is 16 where blobex needs 8"),
    ("generator.size_in", 8.5, r"its setting generator\.size_in is 8\.5"),
    ("generator.c_model", 3, r"generator\.c_model is 3, which gives 24 channels at height 8, but its tensors have 16"),
    ("generator.c_out", 4, r"its setting generator\.c_out is 4"),
    ("generator.const_in", True, r"its setting generator\.const_in is True"),
    ("generator.override_c_in", 7, r"its setting generator\.override_c_in is 7"),
    ("generator.override_c_in", None, r"its setting generator\.override_c_in is None"),
    ("generator.spatial_style", False, r"its setting generator\.spatial_style is False"),
    ("noise_dim", 17, "its setting noise_dim is 17"),
    ("n_features_min", 2, "its setting n_features_min is 2"),
    ("n_features_max", 10, "its setting n_features_max is 10"),
    ("ab_norm", None, "its setting ab_norm is None: blobex needs a number"),
    ("layout_net.norm_features", "yes", r"its setting layout_net\.norm_features is 'yes': blobex needs true or false"),
    ("layout_net.mlp_n_layers", 8, r"its setting layout_net\.mlp_n_layers is 8"),
    ("layout_net.mlp_hidden_dim", 1024, r"its setting layout_net\.mlp_hidden_dim is 1024"),
    ("layout_net.feature_dropout", 0.1, r"its setting layout_net\.feature_dropout is 0\.1"),
    ("layout_net.shuffle_features", True, r"its setting layout_net\.shuffle_features is True"),
    ("layout_net.p_swap_style", 0.5, r"its setting layout_net\.p_swap_style is 0\.5"),
]


@pytest.mark.parametrize(("path", "value", "words"), REFUSED, ids=[f"{path}={value}" for path, value, _ in REFUSED])
def test_unsupported_settings_are_refused_by_name(model, path, value, words):
    with pytest.raises(BlobexError, match=words) as caught:
        published.generator_from_checkpoint(with_settings(model, path, value))
    assert "\n" not in str(caught.value)


def test_whole_floats_are_exact_and_null_takes_the_width_of_the_grid():
    model = random_blobgan(tiny_network(feature_dim=8, style_dim=12, layout_hidden=20, rectangle="legacy"), 16, 2)
    settings = {"resolution": 16.0, "aspect_ratio": 2.0, "generator": {"override_c_in": None}}
    checkpoint = {**checkpoint_of(model), "hyper_parameters": settings}
    imported = published.generator_from_checkpoint(checkpoint)
    assert (imported.height, imported.aspect_ratio) == (16, 2) and isinstance(imported.height, int)


@pytest.mark.parametrize("height", [64, 128, 256])
def test_widths_above_32_follow_from_c_model(height):
    """Published: 8 c_model up to 32, then 4, 2 and 1 times c_model and the channel multiplier."""
    c_model = 1
    heights = [8 << level for level in range(height.bit_length() - 3)]
    widths = {64: 4 * c_model * 2, 128: 2 * c_model * 2, 256: c_model * 2}
    channels = {each: widths.get(each, 8 * c_model) for each in heights if each <= height}
    model = random_blobgan(tiny_network(channels=channels), height, 1)
    settings = {"resolution": height, "layout_net": {"norm_features": True}, "generator": {"c_model": c_model}}
    checkpoint = {**checkpoint_of(model), "hyper_parameters": settings}
    assert published.generator_from_checkpoint(checkpoint).network.channels == channels
    settings["generator"]["channel_multiplier"] = 3
    with pytest.raises(BlobexError, match="12 channels at height 64, but its tensors have 8"):
        published.generator_from_checkpoint(checkpoint)
