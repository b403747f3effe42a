"""Manifests against checksums computed here, and against scenes rendered again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from worlds.profiles import profile_params

from blobex.config.data import Scenes
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.manifest import data_root, describe, manifest_path, render_scenes, write_manifest

FEW = Scenes(
    height=32,
    seed=3,
    **dict.fromkeys(
        (
            *("detection_train", "detection_val", "segmentation_train", "segmentation_val"),
            *("decision_train", "decision_val", "decision_test"),
        ),
        1,
    ),
)


@pytest.fixture
def params(tmp_path: Path) -> Params:
    values = profile_params("smoke")
    return dataclasses.replace(values, data=dataclasses.replace(values.data, root=str(tmp_path / "data" / "scenes")))


def contents(root: Path) -> dict[Path, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != ".manifest.json")
    return {path.relative_to(root): path.read_bytes() for path in files}


def test_description_of_two_files(tmp_path: Path) -> None:
    root = tmp_path / "set"
    (root / "b").mkdir(parents=True)
    (root / "b" / "two.txt").write_bytes(b"22")
    (root / "a.txt").write_bytes(b"1")
    expected = hashlib.sha256(b"a.txt\x001\x001" + b"b/two.txt\x002\x0022").hexdigest()
    assert describe(root) == {"files": 2, "bytes": 3, "sha256": expected}
    (root / "a.txt").rename(root / "c.txt")
    assert describe(root)["sha256"] != expected


def test_scenes_are_rendered_again_from_their_manifest(params: Params) -> None:
    root = Path(params.data.root)
    render_scenes(root, FEW)
    written = write_manifest(root, FEW)
    before = contents(root)
    assert written["files"] == len(before) and written["bytes"] == sum(map(len, before.values()))
    shutil.rmtree(root)
    assert data_root(params) == root
    assert before == contents(root)
    text = manifest_path(root).read_text()
    write_manifest(root)
    assert manifest_path(root).read_text() == text  # still says how they are drawn
    assert json.loads(text)["scenes"] == dataclasses.asdict(FEW)


def test_scenes_of_another_manifest_are_rendered_again(params: Params) -> None:
    """This happens after `git checkout` and `dvc checkout` of another version."""
    root = Path(params.data.root)
    render_scenes(root, FEW)
    write_manifest(root, FEW)
    (first,) = (root / "bdd100k/images/100k/train").iterdir()
    other = dataclasses.replace(FEW, seed=4)
    render_scenes(root.with_name("other"), other)
    write_manifest(root.with_name("other"), other)
    manifest_path(root.with_name("other")).replace(manifest_path(root))
    assert data_root(params) == root
    (second,) = (root / "bdd100k/images/100k/train").iterdir()
    assert first.name != second.name and not first.exists()
    before = second.stat().st_mtime_ns
    data_root(params)  # now it is right, and stays
    assert second.stat().st_mtime_ns == before


def test_rendered_scenes_must_match_the_manifest(params: Params) -> None:
    root = Path(params.data.root)
    render_scenes(root, FEW)
    write_manifest(root, FEW)
    shutil.rmtree(root)
    path = manifest_path(root)
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(BlobexError, match=r"are not those of .*scenes\.json: run `dvc repro scenes`"):
        data_root(params)
    assert not root.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is damaged"), ("[1]", "is not a manifest"), ('{"files": 1}', "does not say how to render it")],
)
def test_damaged_manifest_is_refused_in_one_sentence(params: Params, content: str, message: str) -> None:
    path = manifest_path(params.data.root)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(BlobexError, match=message) as caught:
        data_root(params)
    assert "\n" not in str(caught.value)


def test_missing_folder_without_manifest_is_left_to_the_reader(params: Params) -> None:
    assert data_root(params) == Path(params.data.root)
    with pytest.raises(BlobexError, match="there are no files in"):
        write_manifest(Path(params.data.root))
