"""Scenes that are drawn when they are read, against those that are written all at once."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from worlds.profiles import profile_params

from blobex.config.data import Scenes
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets import bdd, manifest, scene_files
from blobex.datasets.datamodule import (
    explained_paths,
    image_paths,
    load_decisions,
    load_detection,
    load_image_files,
    load_images,
    load_segmentation,
)
from blobex.datasets.manifest import check_scenes, data_root, draw_anew, manifest_path, write_manifest
from blobex.datasets.scene_files import draw_all
from blobex.scenes.write import SceneSet

SCENES = Scenes(
    height=32,
    seed=3,
    detection_train=5,
    detection_val=2,
    segmentation_train=3,
    segmentation_val=2,
    decision_train=3,
    decision_val=2,
    decision_test=6,
)


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the data set as written at once."""
    root = tmp_path_factory.mktemp("whole") / "scenes"
    manifest.render_scenes(root, SCENES)
    return contents(root)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Return parameters of a clone that has the manifest of the scenes only."""
    values = profile_params("smoke")
    root = tmp_path / "data" / "scenes"
    manifest.render_scenes(root, SCENES)
    write_manifest(root, SCENES)
    shutil.rmtree(root)
    monkeypatch.setattr(manifest, "AT_ONCE", 0)
    data = dataclasses.replace(values.data, root=str(root), cache=str(tmp_path / "cache"))
    return dataclasses.replace(values, data=data)


READERS: tuple[Callable[[Params], object], ...] = (
    lambda params: load_images(params, "rect", "train"),
    lambda params: load_detection(params, "rect", "train"),
    lambda params: load_segmentation(params, "rect", "val"),
    lambda params: load_decisions(params, "rect", "test"),
    lambda params: bdd.read_drivable(data_root(params), "val"),
)


@pytest.mark.parametrize("order", list(itertools.permutations(READERS))[::17])
def test_any_order_of_reading_gives_the_same_files(
    params: Params, whole: dict[str, bytes], order: tuple[Callable[[Params], object], ...]
) -> None:
    root = data_root(params)
    assert list(contents(root)) == ["scenes.json"]
    for read in order:
        read(params)
        drawn = contents(root)
        assert drawn == {name: whole[name] for name in drawn}
    assert len(drawn) < len(whole)
    check_scenes(root)
    assert contents(root) == whole
    assert not [path for path in root.iterdir() if path.suffix == ".jsonl"]


def test_only_the_images_that_are_read_are_drawn(params: Params) -> None:
    paths = explained_paths(params)
    assert len(paths) == 6 and not any(path.exists() for path in paths)
    assert len(image_paths(params, "val")) == 2
    first = load_image_files(params, "rect", paths, "explained", 2).images
    assert [path.exists() for path in paths] == [True, True, False, False, False, False]
    later = load_image_files(params, "rect", paths[2:], "sweep", 1)
    assert later.paths == [paths[2]] and not paths[3].exists()
    assert load_image_files(params, "rect", paths, "explained", 2).images.equal(first)


def test_a_stopped_drawing_keeps_each_scene(
    params: Params, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, draw = list[int](), SceneSet.write_scene

    def stop(part: SceneSet, root: Path, seed: int) -> object:
        if len(drawn) % 4 == 3:
            drawn.append(-1)
            raise KeyboardInterrupt
        drawn.append(seed)
        return draw(part, root, seed)

    monkeypatch.setattr(SceneSet, "write_scene", stop)
    root, stopped = data_root(params), 0
    while True:
        try:
            draw_all(root)
            break
        except KeyboardInterrupt:
            stopped += 1
            for path in root.glob(".*.jsonl"):  # as if the process had been killed while it wrote a line
                with path.open("a") as file:
                    file.write('\n{"name": "scene-0')
    seeds = [seed for seed in drawn if seed >= 0]
    assert stopped == 7 and len(seeds) == len(set(seeds)) == 23
    assert contents(root) == whole


def test_two_processes_draw_the_same_files(params: Params, whole: dict[str, bytes]) -> None:
    root = data_root(params)
    context = get_context("spawn")
    workers = [context.Process(target=draw_all, args=(root,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0] and contents(root) == whole


def test_the_stage_goes_on_after_a_stop_unless_the_code_changed(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, draw, counts = tmp_path / "scenes", SceneSet.write_scene, list[int]()

    def run(code: str, limit: int) -> int:
        """Draw up to `limit` scenes; return how many were drawn."""
        counts.clear()

        def count(part: SceneSet, folder: Path, seed: int) -> object:
            if len(counts) == limit:
                raise KeyboardInterrupt
            counts.append(seed)
            return draw(part, folder, seed)

        with monkeypatch.context() as patch:
            patch.setattr(SceneSet, "write_scene", count)
            if limit < 23:
                with pytest.raises(KeyboardInterrupt):
                    draw_anew(root, SCENES, code)
            else:
                draw_anew(root, SCENES, code)
        return len(counts)

    root.mkdir()
    (root / "old").touch()
    assert run("one", 9) == 9 and (root / "old").exists()
    assert run("one", 9) == 9
    assert run("two", 4) == 4
    assert run("two", 99) == 19
    assert contents(root) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_drawn_scenes_must_match_the_manifest(params: Params) -> None:
    path = manifest_path(params.data.root)
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(BlobexError, match=r"are not those of .*scenes\.json: run `dvc repro scenes`"):
        check_scenes(data_root(params))


def test_damaged_list_of_sets_is_refused_in_one_sentence(params: Params) -> None:
    root = data_root(params)
    (root / "scenes.json").write_text('{"sets": 3}')
    with pytest.raises(BlobexError, match="does not list the sets of scenes"):
        scene_files.draw_all(root)
