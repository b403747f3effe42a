"""Reading of parameter files: strictness and messages."""

import copy
from dataclasses import asdict
from typing import Literal

import pytest
import yaml
from worlds.profiles import params_text

from blobex.config.params import Params
from blobex.config.read import flatten, load_params, parse
from blobex.config.training import Jitter
from blobex.core.errors import BlobexError

DELETED = object()


def label(value):
    """Return a name for a value that is the same in every process."""
    return "deleted" if value is DELETED else str(value)[:40]


@pytest.fixture(scope="module")
def tree():
    return yaml.safe_load(params_text("smoke"))


def changed(tree, key, value):
    """Return a copy of the tree with the leaf at a dotted key replaced or deleted."""
    tree = copy.deepcopy(tree)
    *path, last = key.split(".")
    node = tree
    for part in path:
        node = node[part]
    if value is DELETED:
        del node[last]
    else:
        node[last] = value
    return tree


def leaves(tree, prefix=""):
    if not isinstance(tree, dict) or not tree:
        return {prefix[:-1]: tree}
    return {name: value for key, node in tree.items() for name, value in leaves(node, f"{prefix}{key}.").items()}


def test_round_trip(tree):
    params = parse(Params, tree)
    assert parse(Params, asdict(params)) == params
    assert parse(Params, yaml.safe_load(yaml.safe_dump(asdict(params)))) == params


def test_flat_names_hold_every_leaf(tree):
    params = parse(Params, tree)
    assert flatten(params) == leaves(tree)
    assert flatten(params)["blobgan.network.channels.16"] == 16
    assert flatten(params.run, "run.") == {f"run.{key}": value for key, value in tree["run"].items()}


def test_whole_numbers_become_floats(tree):
    rate = parse(Params, changed(tree, "blobgan.training.learning_rate", 1)).blobgan.training.learning_rate
    assert rate == 1.0 and isinstance(rate, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E-3", 1e-3), ("+2.e-4", 2e-4), (".5e-1", 0.05), ("0.002", 0.002), ("1", 1.0), ("1e0", 1.0)],
)
def test_notations_of_numbers(tmp_path, text, value):
    source = params_text("smoke").replace("learning_rate: 0.002", f"learning_rate: {text}")
    path = tmp_path / "params.yaml"
    path.write_text(source)
    rate = load_params(path).blobgan.training.learning_rate
    assert rate == value and isinstance(rate, float)


BAD = [  # key, value, words of the message
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


@pytest.mark.parametrize(("key", "value", "words"), BAD, ids=[f"{key}-{label(value)}" for key, value, _ in BAD])
def test_invalid_value(tree, key, value, words):
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
def test_invalid_file(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(BlobexError) as caught:
        load_params(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_file(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(BlobexError, match=r"cannot read .*profiles/"):
            load_params(path)


def test_name_of_a_section_precedes_its_keys():
    with pytest.raises(BlobexError, match=r"jitter\.size is 11"):
        parse(Jitter, {"position": 0, "size": 11, "angle": 0}, "jitter")


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (float, "1", "it must be a number"),
        (list[float], [0.5, True], r"scores\[1\] is True: it must be a number"),
        (dict[str, float], {"a": None}, r"scores\.a is None: it must be a number"),
        (Literal["a", "b"] | None, "c", "scores is 'c': choose one of a, b, or null"),
    ],
)
def test_plain_types_are_strict(kind, value, words):
    with pytest.raises(BlobexError, match=words):
        parse(kind, value, "scores")
