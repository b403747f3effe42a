"""Versions of data in dvc.lock."""

from pathlib import Path

import pytest
import yaml

from blobex.core.errors import BlobexError
from blobex.tracking.versions import dvc_hash

HASH = "0123456789abcdef0123456789abcdef"
LOCK = {
    "schema": "2.0",
    "stages": {
        "scenes": {"cmd": "x", "outs": [{"path": "data/scenes", "md5": f"{HASH}.dir"}]},
        "parser": {"cmd": "y", "deps": [{"path": "data/outside", "md5": HASH}, {"path": "data/plain"}]},
        "nothing": {"cmd": "z"},
    },
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("data/scenes", f"{HASH}.dir"),
        ("data/outside", HASH),
        ("data/plain", "unversioned"),
        ("data/unknown", "unversioned"),
    ],
)
def test_hash_of_outputs_and_dependencies(elsewhere, path, expected):
    (elsewhere / "dvc.lock").write_text(yaml.safe_dump(LOCK))
    assert dvc_hash(Path(path)) == expected


def test_hash_without_a_lock(elsewhere):
    assert dvc_hash(Path("data/scenes")) == "unversioned"
    (elsewhere / "dvc.lock").write_text("")
    assert dvc_hash(Path("data/scenes")) == "unversioned"
    (elsewhere / "dvc.lock").write_text("stages: [")
    with pytest.raises(BlobexError, match=r"dvc\.lock"):
        dvc_hash(Path("data/scenes"))
