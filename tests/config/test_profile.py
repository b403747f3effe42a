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

NAMES = ("bdd100k", "short", "smoke", "synthetic")
OTHERS = ("bdd100k", "short", "smoke")


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
    own = [line.partition(" # ")[2] for line in params_text(name).splitlines()]
    comments = [line.partition(" # ")[2] for line in params_text("synthetic").splitlines()]
    assert [comment for comment in own if comment] == [comment for comment in comments if comment]


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


def test_published_values_are_those_of_the_papers():
    """BlobGAN and OCTET, as their papers give them."""
    params = profile_params("bdd100k")
    assert (params.setup("rect").height, params.setup("rect").width) == (256, 512)
    assert (params.setup("square").height, params.setup("square").width) == (256, 256)
    gan = params.blobgan
    assert (gan.training.learning_rate, gan.r1_weight, gan.r1_every) == (0.002, 50, 16)
    assert (gan.jitter.position, gan.jitter.size, gan.jitter.angle) == (0.04, 0.5, 0.1)
    assert gan.ema_half_life_images == gan.mean_latent_samples == 10_000
    pretrain, encoder = params.encoder_pretrain.training, params.encoder.training
    assert (pretrain.learning_rate, pretrain.halve_every, pretrain.batch_size) == (0.005, 2500, 16)
    assert (encoder.learning_rate, encoder.halve_every) == (0.002, 5000)


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
    with pytest.raises(BlobexError, match="there is no profile big: choose one of bdd100k short smoke synthetic"):
        profile.write_profile("big", tmp_path / "params.yaml", FOLDER)
    assert not list(tmp_path.iterdir())
