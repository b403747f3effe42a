"""Changes of values in a parameter file."""

import pytest
import yaml
from worlds.profiles import params_text

from blobex.config.read import load_params
from blobex.config.write import replace_values, rewrite_values
from blobex.core.errors import BlobexError

TEXT = """# heading
a: 1 # one
b:
  c: {x: 1, y: [1, 2]} # flow
  d: # block
    x: {low: 0}

    y: {low: 1} # last

# next
e: null
"""


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("a", 2.5, "a: 1 #", "a: 2.5 #"),
        ("a", None, "a: 1 #", "a: null #"),
        ("a", 1e-05, "a: 1 #", "a: 1.0e-05 #"),
        ("e", "x: y", "e: null", "e: 'x: y'"),
        ("b.c", {"z": [3], 4: "a"}, "{x: 1, y: [1, 2]}", "{z: [3], 4: a}"),
        ("b.c.y", [], "[1, 2]", "[]"),
        ("b.d", {"z": {"low": 2}, "y": 3}, "x: {low: 0}\n\n    y: {low: 1} #", "z: {low: 2}\n    y: 3 #"),
    ],
)
def test_all_else_keeps_its_bytes(key, value, old, new):
    changed = replace_values(TEXT, {key: value})
    assert changed == TEXT.replace(old, new) and changed != TEXT
    node = yaml.safe_load(changed)
    for part in key.split("."):
        node = node[part]
    assert node == value


def test_several_values():
    changed = replace_values(TEXT, {"e": 5, "a": 100, "b.c.x": 7})
    assert changed == TEXT.replace("a: 1", "a: 100").replace("{x: 1", "{x: 7").replace("e: null", "e: 5")


def test_missing_key():
    with pytest.raises(BlobexError, match=r"no key b\.f"):
        replace_values(TEXT, {"b.f": 1})


def test_file_is_written_when_the_block_succeeds(tmp_path):
    path, text = tmp_path / "params.yaml", params_text("smoke")
    path.write_text(text)
    with pytest.raises(RuntimeError), rewrite_values(path, {"run.seed": 5}):
        raise RuntimeError
    with pytest.raises(BlobexError, match=r"run\.seed is -1"), rewrite_values(path, {"run.seed": -1}):
        pass
    assert path.read_text() == text
    with rewrite_values(path, {"run.seed": 5}) as changes:
        assert path.read_text() == text
    assert changes == {"run.seed": (0, 5)} and load_params(path).run.seed == 5
