"""Invalid parameter files."""

from itertools import pairwise

import yaml

from bad_input.world import Case, Harm, cut_at_a_line, folder_at, gone, link_at, put, replaced, setting

LEVELS = list(pairwise("abcdefghijklm"))
LAUGHS = "a: &a [l, l, l, l, l, l, l, l, l]\n" + "".join(
    f"{this}: &{this} [{', '.join([f'*{last}'] * 9)}]\n" for last, this in LEVELS
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{this}: &{this} {{<<: [{', '.join([f'*{last}'] * 9)}]}}\n" for last, this in LEVELS
)
LAUGHING = yaml.safe_load(LAUGHS)["m"]  # 9^13 texts if expanded


def text(name: str, content: bytes | str, *words: str) -> Case:
    """Return the case of a file with this content."""
    return Case(f"params: {name}", put("params.yaml", content), "blobex data", words)


def value(key: str, content: object, *words: str, name: str = "") -> Case:
    """Return the case of a valid file with one other value."""
    return Case(f"params: {name or f'{key} is {content!r}'}", setting(key, content), "blobex data", words)


def file(name: str, harm: Harm, *words: str) -> Case:
    """Return the case of a file that is damaged."""
    return Case(f"params: {name}", harm, "blobex data", words)


FILES = [
    file("none", gone("params.yaml"), "cannot read params.yaml", "profiles/"),
    file("a folder", folder_at("params.yaml"), "cannot read params.yaml", "profiles/"),
    file("a link to nothing", link_at("params.yaml", "nowhere"), "cannot read params.yaml"),
    file("a link to itself", link_at("params.yaml", "params.yaml"), "cannot read params.yaml"),
    file("half of its lines", cut_at_a_line("params.yaml"), "missing key"),
    file("a misspelt section", replaced("params.yaml", "evaluate:", "evalute:"), "unknown key evalute"),
    text("comments only", "# seed: 1\n", "mapping"),
    text("a sentence", "please train a good model\n", "mapping"),
    text("a number", "7\n", "mapping"),
    text("UTF-16", "run: {seed: 1}\n".encode("utf-16"), "cannot read params.yaml"),
    text("Latin-1", "run: {seed: 1} # für\n".encode("latin-1"), "cannot read params.yaml"),
    text("binary", bytes(range(256)), "cannot read params.yaml"),
    text("a zero byte", "run: {seed: 1}\0\n", "not valid YAML"),
    text("two documents", "run: {}\n---\nrun: {}\n", "not valid YAML"),
    text("an unknown anchor", "run: *seed\n", "not valid YAML"),
    text("code", "run: !!python/object/apply:os.system ['touch executed']\n", "not valid YAML"),
    text("an object", "run: !!python/object:builtins.object {}\n", "not valid YAML"),
    text("deep mappings", "{a: " * 3000, "not valid YAML"),
    text("a billion laughs", LAUGHS, "unknown key a"),
    text("a billion laughs as a section", LAUGHS + "run: *m\n", "unknown key a"),
    text("a billion merges", MERGES, "not valid YAML"),
    text("a list within itself", "&run [*run]\n", "mapping"),
    text("a mapping within itself", "&run {run: *run}\n", "missing key"),
    text("many keys", "".join(f"key{number}: 1\n" for number in range(5_000)), "unknown key key0"),
    text("a long line", f"run: {'x' * 100_000}\n", "missing key"),
]
VALUES = [
    value("run", LAUGHING, "run is", "mapping", name="a section of a billion laughs"),
    value("run.seed", LAUGHING, "run.seed is", "whole number", name="a value of a billion laughs"),
    value("explain.attributes", LAUGHING, "explain.attributes", name="a list of a billion laughs"),
    value("run.device", "c" * 100_000, "run.device is", "auto, cpu, cuda", name="a word of 100,000 letters"),
    value("run.device", {"cpu": 1}, "run.device is", "auto, cpu, cuda"),
    value("run.seed", 2**63, "run.seed is", "whole number from 0"),
    value("invert.rect.l2", 10**400, "invert.rect.l2 is", "from 0 to 10000", name="a number of 400 digits"),
    value("run.tracking_uri", "sqlite:///a\0b", "run.tracking_uri is", "text", name="a text with a zero byte"),
    value("data.root", "a\ud800b", "data.root is", "text", name="a text of half a letter"),
    value("data.root", None, "data.root is None", "text"),
    value("data.root", ["data"], "data.root is", "text"),
    value("data.cache", True, "data.cache is True", "text"),
    value("fid_stats.name", "../../escaped", "fid_stats.name is '../../escaped'", "name"),
    value("fid_stats.name", "/tmp/escaped", "fid_stats.name is '/tmp/escaped'", "name"),
    value("fid_stats.name", "a/b", "fid_stats.name is 'a/b'", "name"),
    value("fid_stats.name", "", "fid_stats.name is ''", "name"),
    value("fid_stats.name", "..", "fid_stats.name is '..'", "name"),
    value("fid_stats.name", "x" * 300, "fid_stats.name is", "name", name="a name of 300 letters"),
    value("sweep_cf.space.margin.low", float("nan"), "sweep_cf.space.margin.low is nan"),
    value("sweep_cf.space.margin.high", float("inf"), "sweep_cf.space.margin.high is inf"),
    value("sweep_cf.space.margin", [0, 1], "sweep_cf.space.margin is [0, 1]", "mapping"),
    value("sweep_cf.space.pace", {"low": 0, "high": 1, "log": False, "whole": False}, "sweep_cf.space", "'pace'"),
    value("blobgan_pretrain.slots.dragon", 1, "blobgan_pretrain.slots", "'dragon'"),
    value("blobgan_pretrain.slots.road", -1, "blobgan_pretrain.slots.road is -1"),
    value("parser.channels", {0: 8}, "parser.channels is {0: 8}", "list"),
    value("truth.rules", ["biased", "biased"], "truth.rules", "none twice"),
    value("truth.setups", "rect", "truth.setups is 'rect'", "list"),
    value("report", [], "report is []", "mapping"),
    value("bench.images", 3.0, "bench.images is 3.0", "whole number from 4"),
    value("encoder.real.l1", "1,5", "encoder.real.l1 is '1,5'", "a number"),
]
CASES = [*FILES, *VALUES]
