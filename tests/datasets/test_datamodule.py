"""Data sets against the scenes they were rendered from, and the order of training samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from blobex.config.data import ImageSize, ImageSizes
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import (
    NO_BOX,
    batch_indices,
    box_rows,
    checksum,
    image_paths,
    load_decisions,
    load_detection,
    load_images,
    load_segmentation,
)
from blobex.datasets.images import folder_images
from blobex.scenes.labels import DETECTION
from blobex.scenes.render import Box, render
from blobex.scenes.rules import RULES, actions
from blobex.scenes.write import DatasetCounts, scene_of, write_dataset

PROFILE = Path(__file__).parents[2] / "profiles" / "synthetic.yaml"


def with_data(root: Path, source: str = "bdd100k", height: int = 32) -> Params:
    params = load_params(PROFILE)
    setups = ImageSizes(square=ImageSize(height, 1), rect=ImageSize(height, 2))
    return dataclasses.replace(
        params, setups=setups, data=dataclasses.replace(params.data, root=str(root), source=source, cache=None)
    )


@pytest.fixture(scope="module")
def params(tmp_path_factory) -> Params:
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(root, DatasetCounts(12, 4, 8, 3, 10, 4, 3), height=32, seed=5)
    return with_data(root)


def test_detection_set_matches_the_scenes(params: Params) -> None:
    data, paths = load_detection(params, "rect", "train"), image_paths(params, "train")
    assert data.images.shape == (12, 3, 32, 64) and data.images.dtype == torch.uint8
    assert torch.equal(data.images, load_images(params, "rect", "train"))
    for i, path in enumerate(paths):
        truth = render(scene_of(path), 32)
        difference = data.images[i].permute(1, 2, 0).numpy().astype(int) - truth.image
        assert np.abs(difference).mean() < 4  # the loss of JPEG
        assert torch.equal(data.drivable[i], torch.from_numpy(truth.drivable))
        rows = data.boxes[i][data.boxes[i, :, 0] != NO_BOX]
        wanted = [(DETECTION.index(b.category), b.x1, b.y1, b.x2, b.y2) for b in truth.boxes]
        assert rows.tolist() == [list(map(float, row)) for row in wanted]


def test_square_is_the_centre_of_the_rectangle(params: Params) -> None:
    wide, square = (load_detection(params, setup, "val") for setup in ("rect", "square"))
    assert torch.equal(square.images, wide.images[:, :, :, 16:48])
    assert torch.equal(square.drivable, wide.drivable[:, :, 16:48])
    there = square.boxes[square.boxes[:, :, 0] != NO_BOX]
    assert (there[:, 1:] >= 0).all() and (there[:, 1:] <= 32).all()
    assert (there[:, 3:] - there[:, 1:3] >= 1).all()
    masks = (load_segmentation(params, setup, "val") for setup in ("rect", "square"))
    wide_masks, square_masks = masks
    assert torch.equal(square_masks.semantic, wide_masks.semantic[:, :, 16:48])


def test_segmentation_set_matches_the_scenes(params: Params) -> None:
    data = load_segmentation(params, "rect", "train")
    paths = sorted((Path(params.data.root) / "bdd100k/images/10k/train").iterdir())
    assert len(data.images) == len(paths) == 8
    for i, path in enumerate(paths):
        truth = render(scene_of(path), 32)
        assert torch.equal(data.semantic[i], torch.from_numpy(truth.semantic))
        things = data.things[i].numpy()
        for number in range(1, things.max() + 1):  # each number is one instance, and all of it
            inside = things == number
            assert inside.any() and len(np.unique(truth.instance[inside])) == 1
            assert (truth.instance == truth.instance[inside][0]).sum() == inside.sum()


def test_decisions_follow_the_rules(params: Params) -> None:
    plain, biased = (load_decisions(params, "rect", "train", biased=value) for value in (False, True))
    paths = sorted((Path(params.data.root) / "bdd_oia/lastframe/data").iterdir())[:10]
    scenes = [scene_of(path) for path in paths]
    assert plain.actions.tolist() == [list(map(float, actions(scene))) for scene in scenes]
    assert biased.actions.tolist() == [list(map(float, RULES["biased"].actions(scene))) for scene in scenes]
    assert len(load_decisions(params, "square", "test").images) == 3


def test_loading_at_another_size_resizes(params: Params) -> None:
    small = with_data(Path(params.data.root), height=16)
    assert load_images(small, "rect", "val").shape == (4, 3, 16, 32)
    big, half = (load_detection(some, "rect", "val").boxes for some in (params, small))
    kept = half[half[:, :, 0] != NO_BOX]
    everything = (big[big[:, :, 0] != NO_BOX][:, 1:] / 2).tolist()
    assert len(kept) and all(row in everything for row in kept[:, 1:].tolist())


def test_folder_of_images(tmp_path: Path) -> None:
    for number in range(20):
        Image.new("RGB", (50, 30), (number, 0, 0)).save(tmp_path / f"{number:02d}.png")
    params = with_data(tmp_path, source="folder")
    assert load_images(params, "square", "train").shape == (18, 3, 32, 32)
    assert [path.stem for path in image_paths(params, "val")] == ["09", "19"]
    with pytest.raises(BlobexError, match="no labels"):
        load_detection(params, "square", "train")
    with pytest.raises(BlobexError, match="no split 'test'"):
        folder_images(tmp_path, "test")
    for split, name in (("train", "a"), ("val", "b")):
        (tmp_path / split).mkdir()
        Image.new("RGB", (50, 30)).save(tmp_path / split / f"{name}.png")
    assert [path.stem for path in folder_images(tmp_path, "val")] == ["b"]
    with pytest.raises(BlobexError, match="give at least 10"):
        folder_images(tmp_path / "val", "val")


def test_no_sample_repeats_within_an_epoch_and_batches_are_deterministic() -> None:
    stream = torch.cat([batch_indices(step, 10, 4, seed=1) for step in range(10)])
    for epoch in stream.view(4, 10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert len({tuple(epoch.tolist()) for epoch in stream.view(4, 10)}) == 4
    assert torch.equal(batch_indices(7, 10, 4, seed=1), stream[28:32])
    assert not torch.equal(batch_indices(7, 10, 4, seed=2), stream[28:32])
    assert torch.equal(torch.cat([batch_indices(step, 10, 8, 1) for step in range(5)]), stream)
    assert sorted(batch_indices(0, 3, 7, seed=0).tolist()[:6]) == [0, 0, 1, 1, 2, 2]


def test_box_rows_are_padded() -> None:
    rows = box_rows([(), (Box("car", 1, 2, 3, 4), Box("rider", 0, 0, 2, 2))])
    assert rows.shape == (2, 2, 5) and (rows[0, :, 0] == NO_BOX).all()
    assert rows[1].tolist() == [[2, 1, 2, 3, 4], [1, 0, 0, 2, 2]]
    assert box_rows([(), ()]).shape == (2, 0, 5)


def test_checksum_sees_every_byte() -> None:
    a = torch.zeros(3, 5, dtype=torch.uint8)
    b = a.clone()
    b[2, 4] = 1
    assert checksum(a) == checksum(a.clone()) != checksum(b)
    assert checksum(a, b.float()) != checksum(a, a.float())
