"""Profiles: values that differ from the default, and the parameter files made of them."""

from dataclasses import asdict

import pytest
import yaml
from worlds.profiles import FOLDER, params_text, profile_params

from blobex.config import profile
from blobex.config.explain import VARIANTS
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError

NAMES = ("bdd100k", "published", "short", "smoke", "synthetic")
OTHERS = ("bdd100k", "published", "short", "smoke")


def test_names():
    assert tuple(profile.profile_names(FOLDER)) == NAMES


def test_the_projects_parameters_are_the_default():
    assert (FOLDER.parent / "params.yaml").read_bytes() == (FOLDER / "synthetic.yaml").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_parameter_file_is_complete(name):
    tree = yaml.safe_load(params_text(name))
    assert asdict(profile_params(name)) == tree
    assert list(Params.__dataclass_fields__) == list(tree)


@pytest.mark.parametrize("name", OTHERS)
def test_only_named_values_change(name):
    """A profile's file holds exactly the keys whose values differ from the default's."""
    tree = asdict(profile_params("synthetic"))
    for key, value in profile.profile_values(name, FOLDER):
        *path, last = key.split(".")
        section = tree
        for part in path:
            section = section[part]
        assert section[last] != value, f"{key} has the value of the default: remove it from profiles/{name}.yaml"
        section[last] = value
    assert tree == asdict(profile_params(name))


@pytest.mark.parametrize("name", OTHERS)
def test_comments_and_order_are_those_of_the_default(name):
    """Each line of the default is there with its comment, but for those inside a replaced block mapping."""
    default, own = params_text("synthetic"), params_text(name)
    if profile_params(name).blobgan.network.appearance is None:
        inside = default[default.index("      texture_levels:") : default.index("  training:\n    steps: 0")]
        default = default.replace(inside, "")
    comments, own_comments = ([line.partition(" # ")[2] for line in text.splitlines()] for text in (default, own))
    assert [comment for comment in own_comments if comment] == [comment for comment in comments if comment]


@pytest.mark.parametrize("name", NAMES)
def test_values_fit_together(name):
    """Networks end at the height of the images, blobs are as many as slots, each changeable key has a weight."""
    params = profile_params(name)
    network = params.blobgan.network
    for setup in (params.setups.square, params.setups.rect):
        assert max(network.channels) == max(network.discriminator_channels) == setup.height
        assert max(params.encoder_pretrain.channels) == setup.height
        assert min(network.channels) == network.size_in
    assert (params.setups.square.aspect_ratio, params.setups.rect.aspect_ratio) == (1, 2)
    assert sum(params.blobgan_pretrain.slots.values()) <= network.blobs
    for search in (params.explain.square, params.explain.rect):
        for variant in VARIANTS:
            assert set(params.explain.variant(variant).keys) <= set(search.lambda_key)


@pytest.mark.parametrize("name", ["bdd100k", "published"])
def test_published_values_are_those_of_the_papers(name):
    """BlobGAN and OCTET, as their papers give them."""
    params = profile_params(name)
    assert (params.setup("rect").height, params.setup("rect").width) == (256, 512)
    assert (params.setup("square").height, params.setup("square").width) == (256, 256)
    gan = params.blobgan
    assert (gan.training.learning_rate, gan.r1_every, gan.mean_latent_samples) == (0.002, 16, 10_000)
    assert gan.r1_weight / 2 == 50  # the published penalty has no factor 1/2
    assert (gan.jitter.position, gan.jitter.size, gan.jitter.angle) == (0.04, 0.5, 0.1)
    pretrain, encoder = params.encoder_pretrain.training, params.encoder.training
    assert (pretrain.learning_rate, pretrain.halve_every, pretrain.batch_size) == (0.005, 2500, 16)
    assert (encoder.learning_rate, encoder.halve_every) == (0.002, 5000)
    assert params.encoder.generated.blobs == pytest.approx(10 / 6)  # times a sum over six keys: 10 times their mean
    assert params.decision.architecture == "densenet121"


@pytest.mark.parametrize("name", NAMES)
def test_what_needs_rendered_scenes_is_off_for_other_data(name):
    """No stage asks for the causes, or for the steering and brake, of real images."""
    params = profile_params(name)
    rendered = {"square", "rect"} if params.data.root == profile_params("synthetic").data.root else set()
    assert set(params.truth.setups) <= rendered and set(params.control.setups) <= rendered
    assert set(params.repair.setups) <= rendered
    assert set(params.truth.setups) <= set(params.control.setups)  # the benchmark reads its weights


def test_published_networks_are_those_of_the_papers():
    """METHOD.md, sections 1 to 3, for the published 256x512 images."""
    params = profile_params("published")
    gan, network = params.blobgan, params.blobgan.network
    assert (network.layout, network.layout_layers, network.layout_hidden, network.z_dim) == ("mlp", 8, 1024, 512)
    assert (network.blobs, network.blob_area, network.size_in, network.norm_features) == (40, 0.02, 8, True)
    assert network.blobs * (network.feature_dim + network.style_dim) == 20_480
    assert network.rectangle == "legacy" and network.appearance is None
    assert network.channels == {8: 768, 16: 768, 32: 768, 64: 768, 128: 384, 256: 192}
    assert gan.start == "scratch" and gan.painting_weight == 0 and gan.flips
    assert gan.ema_half_life_images == pytest.approx(10_000 * gan.training.batch_size / 32)
    assert (params.invert.start, params.search.mode, params.data.perceptual) == ("encoder", "published", "vgg")


def test_an_edited_file_is_saved(tmp_path):
    path, copy = tmp_path / "params.yaml", tmp_path / "params.yaml.saved"
    assert profile.write_profile("smoke", path, FOLDER) is None
    assert profile.write_profile("short", path, FOLDER) is None and not copy.exists()
    assert load_params(path) == profile_params("short")
    path.write_text(f"{path.read_text()}# mine\n")
    edited = path.read_bytes()
    assert profile.write_profile("synthetic", path, FOLDER) == copy
    assert copy.read_bytes() == edited and path.read_text() == params_text("synthetic")


BAD = [  # text of a profile, words of the message
    ("run: {sed: 1}\n", r"unknown key run\.sed"),
    ("runs: {seed: 1}\n", "unknown key runs"),
    ("run: {seed: -1}\n", r"run\.seed is -1"),
    ("run: 3\n", r"run is 3.*mapping"),
    ("# nothing\n", "mapping"),
    ("explain: {square: {lambda_key: {zs: 1.0}}}\n", r"a key of explain\.square\.lambda_key is 'zs'"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=range(len(BAD)))
def test_invalid_profile_changes_nothing(tmp_path, text, words):
    (tmp_path / "synthetic.yaml").write_text(params_text("synthetic"))
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BlobexError, match=words):
        profile.load_profile("mine", tmp_path)


def test_unknown_profile(tmp_path):
    with pytest.raises(
        BlobexError, match="there is no profile big: choose one of bdd100k published short smoke synthetic"
    ):
        profile.write_profile("big", tmp_path / "params.yaml", FOLDER)
    assert not list(tmp_path.iterdir())
