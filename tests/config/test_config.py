"""params.yaml: what is read, and what is refused with the name of the key."""

import copy
import dataclasses
from pathlib import Path

import pytest
import yaml

from blobex.config.explain import VARIANTS
from blobex.config.params import IMAGE_TRAININGS, Params
from blobex.config.read import flatten, load_params, parse, to_dict
from blobex.config.training import Jitter
from blobex.core.errors import BlobexError
from blobex.counterfactual import published as counterfactual
from blobex.inversion import published as inversion

PROFILES = Path(__file__).parents[2] / "profiles"
NAMES = ("smoke", "short", "synthetic", "bdd100k")
DELETED = object()


def name(value):
    """Of a value in a test's name: the same in every process."""
    return "deleted" if value is DELETED else str(value)[:40]


@pytest.fixture(scope="module")
def tree():
    return yaml.safe_load((PROFILES / "smoke.yaml").read_text())


def changed(tree, key, value):
    """A copy of the tree with the leaf at a dotted key replaced or deleted."""
    tree = copy.deepcopy(tree)
    *path, last = key.split(".")
    node = tree
    for name in path:
        node = node[name]
    if value is DELETED:
        del node[last]
    else:
        node[last] = value
    return tree


def leaves(tree, prefix=""):
    if not isinstance(tree, dict) or not tree:
        return {prefix[:-1]: tree}
    return {name: value for key, node in tree.items() for name, value in leaves(node, f"{prefix}{key}.").items()}


@pytest.mark.parametrize("name", NAMES)
def test_profile_loads_whole(name):
    path = PROFILES / f"{name}.yaml"
    params = load_params(path)
    assert to_dict(params) == yaml.safe_load(path.read_text())
    assert [field.name for field in dataclasses.fields(Params)] == list(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize("name", NAMES)
def test_profile_fits_itself(name):
    """Networks end at the height of the pictures; every changeable key has a weight; batches hold whole parts."""
    params = load_params(PROFILES / f"{name}.yaml")
    network = params.blobgan.network
    for setup in (params.setups.square, params.setups.rect):
        assert max(network.channels) == max(network.discriminator_channels) == setup.height
        assert max(params.encoder_pretrain.channels) == setup.height
        assert min(network.channels) == network.size_in
    assert (params.setups.square.aspect_ratio, params.setups.rect.aspect_ratio) == (1, 2)
    for search in (params.explain.square, params.explain.rect):
        for name in VARIANTS:
            assert set(params.explain.variant(name).keys) <= set(search.lambda_key)


def test_published_values_stand_in_the_published_profile():
    """BlobGAN and OCTET, as their papers give them."""
    params = load_params(PROFILES / "bdd100k.yaml")
    assert (params.setup("rect").height, params.setup("rect").width) == (256, 512)
    assert (params.setup("square").height, params.setup("square").width) == (256, 256)
    gan = params.blobgan
    assert (gan.training.learning_rate, gan.r1_weight, gan.r1_every) == (0.002, 50, 16)
    assert (gan.jitter.position, gan.jitter.size, gan.jitter.angle) == (0.04, 0.5, 0.1)
    assert gan.ema_half_life_images == gan.mean_latent_samples == 10_000
    pretrain, encoder = params.encoder_pretrain.training, params.encoder.training
    assert (pretrain.learning_rate, pretrain.halve_every, pretrain.batch_size) == (0.005, 2500, 16)
    assert (encoder.learning_rate, encoder.halve_every) == (0.002, 5000)


def test_published_values_stand_in_the_published_search():
    """OCTET's inversion and its basic search, as its paper gives them; they are in no profile, as they never change."""
    assert (inversion.STEPS, inversion.RATE, inversion.SIZE_RATE, inversion.HALVE_EVERY) == (400, 0.02, 0.04, 100)
    assert inversion.WEIGHTS == {"perceptual": 1, "l2": 0.1, "decision": 0.1, "blobs": 0.1}
    assert (counterfactual.STEPS, counterfactual.RATE, counterfactual.SIZE_RATE) == (200, 0.08 / 8, 0.08)
    assert counterfactual.LAMBDA_PROX == 0.1
    weights = {"xs": 6, "ys": 6, "covs": 1, "sizes": 1, "features": 20, "spatial_style": 20}
    assert weights == counterfactual.LAMBDA_KEY
    for name in NAMES:
        params = load_params(PROFILES / f"{name}.yaml")
        assert params.search.mode == "fast"
        assert params.explain.square.lambda_key == params.explain.rect.lambda_key == weights


def test_round_trip(tree):
    params = parse(Params, tree)
    assert parse(Params, to_dict(params)) == params
    assert parse(Params, yaml.safe_load(yaml.safe_dump(to_dict(params)))) == params


def test_flat_names_hold_every_leaf(tree):
    params = parse(Params, tree)
    assert flatten(params) == leaves(tree)
    assert flatten(params)["blobgan.network.channels.16"] == 16
    assert flatten(params.run, "run.") == {f"run.{key}": value for key, value in tree["run"].items()}


def test_records_are_frozen(tree):
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse(Params, tree).run.seed = 1


@pytest.mark.parametrize("name", ["square", "rect"])
def test_setup_by_name(tree, name):
    setup = parse(Params, tree).setup(name)
    assert setup.width == setup.height * tree["setups"][name]["aspect_ratio"]


@pytest.mark.parametrize(("batches", "share"), [("pixels", 2), ("pictures", 1)])
def test_batches_of_wide_pictures(tree, batches, share):
    tree["run"]["batches"] = batches
    params = parse(Params, tree)
    wide = params.for_setup("rect")
    for section in IMAGE_TRAININGS:
        size = getattr(params, section).training.batch_size
        assert getattr(wide, section).training.batch_size == size // share
    assert wide.blobgan_pretrain.layout == params.blobgan_pretrain.layout  # of vectors, as long for any picture
    assert params.for_setup("square").blobgan == params.blobgan
    assert wide.for_setup("rect") == wide  # what a run logs of itself is what it takes to repeat it
    with pytest.raises(BlobexError, match="square or rect"):
        params.for_setup("round")


def test_unknown_setup(tree):
    with pytest.raises(BlobexError, match=r"'round'.*square or rect"):
        parse(Params, tree).setup("round")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E-3", 1e-3), ("+2.e-4", 2e-4), (".5e-1", 0.05), ("0.002", 0.002), ("1", 1.0), ("1e0", 1.0)],
)
def test_numbers_as_people_write_them(tmp_path, text, value):
    source = (PROFILES / "smoke.yaml").read_text().replace("learning_rate: 0.002", f"learning_rate: {text}")
    path = tmp_path / "params.yaml"
    path.write_text(source)
    rate = load_params(path).blobgan.training.learning_rate
    assert rate == value and isinstance(rate, float)


BAD = [  # key, value, what the message must say
    ("run.sed", 0, ["unknown key run.sed", "seed, device"]),
    ("extra", {}, ["unknown key extra", "blobgan"]),
    ("blobgan.training.checkpoint.kep", 3, ["unknown key blobgan.training.checkpoint.kep", "keep"]),
    ("run.seed", DELETED, ["missing key run.seed"]),
    ("evaluate", DELETED, ["missing key evaluate"]),
    ("invert.rect.l2", DELETED, ["missing key invert.rect.l2"]),
    ("run.seed", -1, ["run.seed is -1", "whole number from 0 to"]),
    ("run.seed", 1.5, ["run.seed is 1.5", "whole number"]),
    ("run.seed", "7", ["run.seed is '7'", "whole number"]),
    ("run.seed", True, ["run.seed is True", "whole number"]),
    ("run.seed", None, ["run.seed is None", "whole number"]),
    ("run.device", "tpu", ["run.device is 'tpu'", "auto, cpu, cuda"]),
    ("run.device", ["cpu"], ["run.device", "auto, cpu, cuda"]),
    ("run.tracking_uri", 5, ["run.tracking_uri is 5", "text"]),
    ("run", 3, ["run is 3", "mapping"]),
    ("setups.square.height", 8, ["setups.square.height is 8", "from 16 to 1024"]),
    ("setups.rect.aspect_ratio", 9, ["setups.rect.aspect_ratio is 9", "from 1 to 4"]),
    ("setups.rect.aspect_ratio", 1.5, ["setups.rect.aspect_ratio is 1.5", "whole number from 1 to 4"]),
    ("scenes.decision_test", 0, ["scenes.decision_test is 0", "from 1 to"]),
    ("parser.channels", 8, ["parser.channels is 8", "list"]),
    ("parser.channels", [8, 0], ["parser.channels[1] is 0", "from 1 to 2048"]),
    ("parser.channels", [8, "a"], ["parser.channels[1] is 'a'", "whole number"]),
    ("decision.architecture", "resnet", ["decision.architecture is 'resnet'", "densenet121"]),
    ("fid_stats.shuffle", 1, ["fid_stats.shuffle is 1", "true or false"]),
    ("fid_stats.shuffle", "yes", ["fid_stats.shuffle is 'yes'", "true or false"]),
    ("fid_stats.path", 1, ["fid_stats.path is 1", "text"]),
    ("blobgan.network.channels", [16], ["blobgan.network.channels", "mapping"]),
    ("blobgan.network.channels", {"a": 16}, ["a key of blobgan.network.channels is 'a'", "whole number"]),
    ("blobgan.network.channels", {8: -2}, ["blobgan.network.channels.8 is -2", "from 1 to 2048"]),
    ("blobgan.network.norm_features", 1.0, ["blobgan.network.norm_features", "true or false"]),
    ("blobgan.training.learning_rate", 0, ["blobgan.training.learning_rate is 0", "from 1e-08 to 1"]),
    ("blobgan.training.learning_rate", float("nan"), ["blobgan.training.learning_rate is nan", "from 1e-08 to 1"]),
    ("blobgan.training.learning_rate", "fast", ["blobgan.training.learning_rate is 'fast'", "a number"]),
    ("blobgan.training.resume.step", -4, ["blobgan.training.resume.step is -4", "from 0 to"]),
    ("blobgan.training.resume.source", "first", ["blobgan.training.resume.source", "none, last, best, step"]),
    ("blobgan.r1_weight", float("inf"), ["blobgan.r1_weight is inf", "from 0 to"]),
    ("encoder_pretrain.mlp_idx", 0, ["encoder_pretrain.mlp_idx is 0", "from -32 to -1"]),
    ("invert.truncation", 1.01, ["invert.truncation is 1.01", "from 0 to 1"]),
    ("search.mode", "slow", ["search.mode is 'slow'", "fast, published"]),
    ("search.max_batch_pixels", 1000, ["search.max_batch_pixels is 1000", "from 1024 to"]),
    ("search.batch_size", 8, ["unknown key search.batch_size", "mode, max_batch_pixels"]),
    ("invert.rect.halve_every", 100, ["unknown key invert.rect.halve_every"]),
    ("explain.rect.margin", -0.1, ["explain.rect.margin is -0.1", "from 0 to 100"]),
    ("explain.rect.bisections", 31, ["explain.rect.bisections is 31", "whole number from 0 to 30"]),
    ("explain.square.patience", 0.5, ["explain.square.patience is 0.5", "whole number"]),
    ("explain.square.steps", 0, ["explain.square.steps is 0", "from 1 to"]),
    ("explain.square.margin", DELETED, ["missing key explain.square.margin"]),
    ("explain.decision", 3, ["explain.decision is 3", "plain, biased"]),
    ("explain.attributes", [], ["explain.attributes", "at least one"]),
    ("explain.attributes", ["stop", "stop"], ["explain.attributes", "none twice"]),
    ("explain.basic.keys", [], ["explain.basic.keys", "at least one"]),
    ("explain.basic.keys", ["xs", "zs"], ["explain.basic.keys[1] is 'zs'", "spatial_style"]),
    ("explain.targeted.blobs", [0, 512], ["explain.targeted.blobs[1] is 512", "from 0 to 511"]),
    ("explain.diverse.count", 0, ["explain.diverse.count is 0", "from 1 to 16"]),
    ("explain.compose", "collage", ["explain.compose is 'collage'", "photo, full"]),
    ("explain.gate.action", "hope", ["explain.gate.action is 'hope'", "report, refine, skip"]),
    ("explain.square.lambda_key", {"zs": 1.0}, ["a key of explain.square.lambda_key is 'zs'", "xs, ys"]),
    ("explain.square.lambda_key", {"xs": -1.0}, ["explain.square.lambda_key.xs is -1", "from 0 to"]),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD, ids=[f"{key}-{name(value)}" for key, value, _ in BAD])
def test_bad_value_is_named(tree, key, value, words):
    with pytest.raises(BlobexError) as caught:
        parse(Params, changed(tree, key, value))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


BAD_FILES = [
    ("", "mapping"),
    ("- a\n- b\n", "mapping"),
    ("run: {seed: 1\n", "not valid YAML"),
    ("run:\n\tseed: 1\n", "not valid YAML"),
    ("run: {seed: 0, seed: 1}\n", "'seed' occurs twice"),
    ("run: {}\nrun: {}\n", "'run' occurs twice"),
    ("run: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ("run: {seed: 2020-99-99}\n", "not valid YAML"),
    ("run: {seed: " + "1" * 5000 + "}\n", "not valid YAML"),
    ("[" * 5000 + "]" * 5000, "not valid YAML"),
    ("? [a, b]\n: 1\n", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES, ids=range(len(BAD_FILES)))
def test_bad_file_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(BlobexError) as caught:
        load_params(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_file_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(BlobexError, match=r"cannot read .*profiles/"):
            load_params(path)


def test_parse_of_one_section_names_the_path():
    with pytest.raises(BlobexError, match=r"jitter\.size is 11"):
        parse(Jitter, {"position": 0, "size": 11, "angle": 0}, "jitter")
