"""How believable explanations are, for witnesses and counterfactuals that are right or wrong by construction."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from worlds.tiny_world import road_images, tiny_explainer, tiny_params
from worlds.true_readings import reading_of

from blobex.datasets.images import decode_jpeg, to_array
from blobex.explain.believable import Views, believable_measures, flip_values, legible_values, true_values
from blobex.explain.explanation import Explanation
from blobex.explain.request import Request
from blobex.perception.sentences import differences
from blobex.scenes.render import render
from blobex.scenes.rules import ACTIONS, PLAIN, remove
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene
from blobex.scenes.write import encode_jpeg, image_name


class World:
    """Images of scenes, as files hold them, which are read without error."""

    def __init__(self) -> None:
        self.scenes: dict[bytes, Scene] = {}

    def show(self, scene: Scene) -> np.ndarray:
        image = decode_jpeg(encode_jpeg(render(scene, 64).image))
        self.scenes[image.tobytes()] = scene
        return image

    def read(self, images):
        return [reading_of(self.scenes[image.tobytes()]) for image in images]

    def decide(self, images: torch.Tensor) -> torch.Tensor:
        scenes = [self.scenes[to_array(image).tobytes()] for image in images]
        return torch.tensor([[2.0 * allowed - 1 for allowed in PLAIN.actions(scene)] for scene in scenes])


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def records(world: World) -> list[Explanation]:
    """Perfect explanations: each removes the only cause for which a scene refuses an action."""
    (template,) = tiny_explainer(tiny_params(steps=1)).explain(road_images(1), Request(["stop"]))
    scenes = [(scene, name) for scene in map(sample, range(40)) for name in ACTIONS]
    single = [(scene, name) for scene, name in scenes if len(PLAIN.causes(scene, name)) == 1][:12]
    found = []
    for scene, name in single:
        after = remove(scene, *PLAIN.causes(scene, name))
        changes = differences(reading_of(scene), reading_of(after))
        found.append(
            dataclasses.replace(
                template,
                image=f"data/{image_name(scene.seed)}.jpg",
                attribute=name,
                to_class="not stop" if name == "stop" else name,
                flipped=True,
                query=world.show(scene),
                counterfactual=world.show(after),
                compose="photo",
                sentence="as listed",
                objects=tuple(change.as_dict() for change in changes),
            )
        )
    return found


def means(measures: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in measures.items() if not name.endswith(("_low", "_high", "_count"))}


def test_perfect_explanations_have_perfect_measures(world: World, records: list[Explanation]) -> None:
    found = believable_measures(records, Views(world.read, world.read, world.decide), PLAIN, 64, 0)
    assert found["collateral"] < 0.5  # JPEG spreads a change over blocks of pixels
    perfect = {
        "flip_rate": 1,
        "witness_flip": 1,
        "legible_removed": 1,
        "legible_before": 1,
        "ghost": 0,
        "ghost_grey": 0,
    }
    assert means(found) == perfect | {"collateral": found["collateral"]}
    assert found["witness_flip_count"] == 12 and 8 <= found["ghost_count"] <= 12
    assert found["witness_flip_low"] < 0.8 and found["ghost_high"] == 0
    without = believable_measures(records, Views(world.read, world.read, None), PLAIN, 64, 0)
    assert without == {name: value for name, value in found.items() if not name.startswith("witness_flip")}


def test_attacks_that_change_nothing_visible_have_none(world: World, records: list[Explanation]) -> None:
    attacks = [dataclasses.replace(record, counterfactual=record.query) for record in records]
    assert flip_values(attacks, world.decide)["witness_flip"].values == [0.0] * 12
    found = true_values(attacks, PLAIN, 64)
    assert found["ghost"].interval(0).mean == 1 and found["collateral"].interval(0).mean == 0
    assert found["ghost_grey"].interval(0).mean > 10


def test_objects_that_the_witness_does_not_see_are_not_legible(world: World, records: list[Explanation]) -> None:
    """A witness that is always shown the query sees nothing go."""
    queries = {record.counterfactual.tobytes(): record.query for record in records}

    def blind(images):
        return world.read([queries.get(image.tobytes(), image) for image in images])

    removed = legible_values(records, world.read, blind)["legible_removed"]
    assert len(removed.values) >= 4 and not any(removed.values) and len(set(removed.images)) > 1
    before = legible_values(records, world.read, blind)["legible_before"]
    assert all(before.values) and set(before.images) <= {record.image for record in records}
    assert legible_values(records * 2, world.read, blind)["legible_before"] == before
    silent = [dataclasses.replace(record, objects=()) for record in records]
    assert legible_values(silent, world.read, world.read)["legible_removed"].values == []


def test_unflipped_failed_and_other_questions_are_left_out(world: World, records: list[Explanation]) -> None:
    assert flip_values([dataclasses.replace(record, flipped=False) for record in records], world.decide) == {}
    for change in ({"failed": True}, {"image": "photo.jpg"}, {"attribute": "brake"}):
        others = [dataclasses.replace(record, **change) for record in records]
        assert true_values(others, PLAIN, 64)["ghost"].values == []
    turned = [
        dataclasses.replace(record, to_class="stop" if record.attribute == "stop" else f"not {record.attribute}")
        for record in records
    ]
    assert true_values(turned, PLAIN, 64)["ghost"].values == []
    assert (
        legible_values([dataclasses.replace(record, failed=True) for record in records], world.read, world.read) == {}
    )
