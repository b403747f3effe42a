"""Scenes of the witnesses: labels as if loaded from files, and seeds that no data set has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from blobex.config.data import ImageSize, ImageSizes
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import NO_BOX, load_detection, load_planted, load_segmentation
from blobex.datasets.witness_data import SceneSeeds, load_labelled, load_witness_set, other_scenes, render_labelled
from blobex.scenes.write import DatasetCounts, scene_of, seed_ranges, write_dataset

PROFILE = Path(__file__).parents[2] / "profiles" / "synthetic.yaml"
COUNTS = DatasetCounts(4, 3, 4, 3, 4, 3, 2)
SEED = 2


def with_data(root: Path, height: int = 32) -> Params:
    params = load_params(PROFILE)
    return dataclasses.replace(
        params,
        setups=ImageSizes(square=ImageSize(height, 1), rect=ImageSize(height, 2)),
        data=dataclasses.replace(params.data, root=str(root), cache=None),
        witness=dataclasses.replace(params.witness, scenes=3),
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(folder, COUNTS, 32, SEED)
    return folder


def rendered(split: str, size: ImageSize, rules: list[str]):
    return render_labelled(SceneSeeds(seed_ranges(COUNTS, SEED)[split], 32), size, rules)


def assert_equal(ours: object, theirs: object) -> None:
    for name, tensor in vars(ours).items():
        assert torch.equal(tensor, getattr(theirs, name)), name


@pytest.mark.parametrize("setup", ["square", "rect"])
@pytest.mark.parametrize("height", [32, 16])
def test_rendered_labels_are_those_of_a_written_data_set(root: Path, setup: str, height: int) -> None:
    params = with_data(root, height)
    rules, size = params.decision.variants, params.setup(setup)
    assert_equal(rendered("detection_train", size, rules).detection, load_detection(params, setup, "train"))
    assert_equal(rendered("segmentation_train", size, rules).segmentation, load_segmentation(params, setup, "train"))
    decisions = rendered("decision_train", size, rules)
    for number, rule in enumerate(rules):
        theirs = load_planted(params, setup, "train", rule)
        assert torch.equal(decisions.images, theirs.images) and torch.equal(
            decisions.actions[:, number], theirs.actions
        )


def test_training_scenes_are_in_no_data_set(root: Path) -> None:
    other = other_scenes(root, 1, 1_000_000)
    assert other is not None and other.height == 32 and len(other.seeds) == 1_000_000
    largest = DatasetCounts(*[1_000_000] * 7)
    for seed in range(6):  # those of the data set with the very seed, too
        for seeds in seed_ranges(largest, seed).values():
            assert other.seeds.start >= seeds.stop or other.seeds.stop <= seeds.start
    again = other_scenes(root, 2, 10)
    assert again is not None and again.seeds.start not in other.seeds

    params = with_data(root)
    data, used = load_witness_set(params, "rect"), {scene_of(path).seed for path in root.rglob("*.jpg")}
    assert data.images.shape == (3, 3, 32, 64) and data.actions.shape == (3, 4, 4)
    assert data.detection.images is data.segmentation.images
    offset = other_scenes(root, params.witness.seed_offset, 3)
    assert offset is not None and not used & set(offset.seeds)
    assert_equal(render_labelled(offset, params.setup("rect"), params.decision.variants).detection, data.detection)


def test_scenes_that_the_data_set_contains_are_refused(root: Path, tmp_path: Path) -> None:
    offset = other_scenes(root, 7, 5)
    assert offset is not None
    content = {"height": 32, "seed": SEED, "sets": {"mine": {"first_seed": offset.seeds.stop - 1, "count": 3}}}
    (tmp_path / "scenes.json").write_text(json.dumps(content))
    with pytest.raises(BlobexError, match=r"lists scenes .*: change witness\.seed_offset"):
        other_scenes(tmp_path, 7, 5)
    assert other_scenes(tmp_path, 8, 5) is not None
    for damaged in ("{", "[]", '{"height": 32, "seed": 0, "sets": {"a": {}}}'):
        (tmp_path / "scenes.json").write_text(damaged)
        with pytest.raises(BlobexError, match="does not list the seeds of scenes"):
            other_scenes(tmp_path, 7, 5)


def test_photographs_are_those_of_the_training_split(root: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for part in ("bdd100k", "bdd_oia"):
        (photographs / part).symlink_to(root / part)
    params = with_data(photographs)
    params = dataclasses.replace(params, decision=dataclasses.replace(params.decision, variants=["plain", "biased"]))
    data, split = load_witness_set(params, "rect"), load_labelled(params, "rect", "train")

    def tensors(of: object) -> list[Tensor]:
        return [
            each for value in vars(of).values() for each in ([value] if isinstance(value, Tensor) else tensors(value))
        ]

    assert all(torch.equal(a, b) for a, b in zip(tensors(data), tensors(split), strict=True))
    assert data.actions.shape == (4, 2, 4) and (data.detection.boxes[:, :, 0] != NO_BOX).any()
    assert not torch.equal(data.detection.images, data.segmentation.images)
