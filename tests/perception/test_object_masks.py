"""Pixels of named objects against synthetic scenes, whose objects and lanes are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.true_readings import reading_of, true_output

from blobex.core.errors import BlobexError
from blobex.networks.parser import ParserOutput
from blobex.perception.object_masks import object_mask
from blobex.perception.objects import read_scenes
from blobex.perception.regions import region_mask
from blobex.perception.sentences import differences, sentence
from blobex.scenes.labels import SEMANTIC
from blobex.scenes.render import Box, Rendering, render
from blobex.scenes.rules import NEAR
from blobex.scenes.sample import sample
from blobex.scenes.scene import VEHICLES, Scene, Thing

WORDS = {"left": "on the left", "ego": "ahead", "right": "on the right"}
NAMES = {"left": "left", "ego": "ahead", "right": "right"}


def mask_or_none(name: str, output: ParserOutput) -> Tensor | None:
    try:
        return object_mask(name, output, 0)
    except BlobexError:
        return None


def agree(mask: Tensor | None, truth: np.ndarray) -> bool:
    """Whether their intersection is more than half of their union."""
    return mask is not None and (mask.numpy() & truth).sum() > 0.5 * (mask.numpy() | truth).sum()


def nearest(scene: Scene, place: str) -> int | None:
    """The index of the nearest vehicle in a lane."""
    lane = [n for n, thing in enumerate(scene.things) if thing.place == place and thing.kind in VEHICLES]
    return min(lane, key=lambda n: scene.things[n].distance, default=None)


def test_vehicle_ahead_is_the_nearest_in_the_ego_lane() -> None:
    right, present = 0, 0
    for seed in range(60):
        scene = sample(seed)
        if any(thing.kind in ("motorcycle", "bicycle") for thing in scene.things):
            continue  # vehicles too, but their pixels are labelled apart from their riders'
        rendering, number = render(scene), nearest(scene, "ego")
        mask = mask_or_none("nearest vehicle ahead", true_output(rendering))
        present += number is not None
        right += mask is None if number is None else agree(mask, rendering.instance == number + 1)
        blocks = number is not None and scene.things[number].distance <= NEAR
        assert not blocks or agree(mask, rendering.instance == number + 1), seed
    assert present > 10 and right >= 0.95 * 45


@pytest.mark.parametrize("place", WORDS)
@pytest.mark.parametrize("kind", ["car", "barrier"])
def test_places_in_names_mean_what_they_mean_in_sentences(kind: str, place: str) -> None:
    """Of one object in a lane, the sentence and the name agree on the place, wherever the camera looks."""
    category = {"barrier": "fence"}.get(kind, kind)
    for seed in range(12):
        empty = dataclasses.replace(sample(seed), things=(), line_left="dashed", line_right="dashed")
        scene = dataclasses.replace(empty, things=(Thing(kind, place, 9.0, (28, 70, 165)),))
        words = sentence(differences(reading_of(scene), reading_of(empty)))
        assert f"{category} {WORDS[place]} removed" in words
        rendering = render(scene)
        output, semantic = true_output(rendering), rendering.semantic == SEMANTIC.index(category)
        assert agree(object_mask(f"{category} {NAMES[place]}", output, 0), semantic)
        for other in set(WORDS) - {place}:
            assert mask_or_none(f"{category} {NAMES[other]}", output) is None


def test_every_object_of_a_reading_is_found_by_category_and_place() -> None:
    for seed in range(20):
        rendering = render(sample(seed))
        output, image = true_output(rendering), torch.from_numpy(rendering.image.copy()).permute(2, 0, 1)[None]
        (reading,) = read_scenes(output, image)
        for item in reading.objects:
            if item.score >= 0.3 and item.category not in ("obstacle", "rider"):
                mask = object_mask(f"all {item.category} {item.place}", output, 0)
                left, top, right, bottom = (round(edge) for edge in item.box)
                assert mask[top:bottom, left:right].any(), (seed, item)


@pytest.fixture(scope="module")
def street() -> tuple[Rendering, ParserOutput]:
    """A scene with three cars or more, a traffic light and a pedestrian."""
    for seed in range(200):
        rendering = render(sample(seed))
        kinds = [box.category for box in rendering.boxes if (box.x2 - box.x1) * (box.y2 - box.y1) > 12]
        if kinds.count("car") >= 3 and "traffic light" in kinds and "pedestrian" in kinds:
            return rendering, true_output(rendering)
    raise AssertionError("no such street")


def test_names_select_the_objects_of_the_scene(street: tuple[Rendering, ParserOutput]) -> None:
    rendering, output = street
    cars = rendering.semantic == SEMANTIC.index("car")
    assert agree(object_mask("all cars", output, 0), cars)
    assert agree(object_mask("traffic light", output, 0), rendering.semantic == SEMANTIC.index("traffic light"))
    assert torch.equal(object_mask("person", output, 0), object_mask("Nearest Pedestrian", output, 0))
    lowest = max((box for box in rendering.boxes if box.category == "car"), key=lambda box: box.y2)
    assert agree(object_mask("car", output, 0), rendering.instance == lowest.instance)
    assert torch.equal(object_mask("car", output, 0), region_mask("nearest car", 64, 128, output))
    sky = torch.from_numpy(rendering.semantic == SEMANTIC.index("sky"))
    assert torch.equal(object_mask("sky", output, 0), sky)
    assert torch.equal(object_mask("sky left", output, 0), sky & (torch.arange(128) < 64))
    parts = [mask_or_none(f"all vehicles {place}", output) for place in ("left", "ahead", "right")]
    union = torch.stack([mask for mask in parts if mask is not None]).any(0)
    assert torch.equal(union, object_mask("all vehicles", output, 0))


def test_an_object_is_separated_from_its_neighbour() -> None:
    """Of three cars side by side, the box of the left one holds a part of the next, which is not of its region."""
    semantic, instance = np.full((32, 64), SEMANTIC.index("road"), np.uint8), np.zeros((32, 64), np.uint16)
    instance[14:26, 2:22], instance[8:20, 42:62] = 1, 2
    instance[10:18, 22:42] = 3
    semantic[instance > 0] = SEMANTIC.index("car")
    boxes = (Box("car", 2, 14, 25, 26), Box("car", 42, 8, 62, 20))
    empty = np.full_like(semantic, 2)  # no lane
    output = true_output(Rendering(np.zeros((32, 64, 3), np.uint8), semantic, instance, empty, empty, boxes))
    assert np.array_equal(object_mask("car left", output, 0).numpy(), instance == 1)
    assert np.array_equal(object_mask("car right", output, 0).numpy(), instance == 2)
    assert np.array_equal(object_mask("nearest cars", output, 0).numpy(), instance == 1)  # its foot is lower
    renamed = dataclasses.replace(output, semantic=output.semantic.roll(1, dims=1))  # all pixels of other categories
    unnamed = dataclasses.replace(renamed, centres=output.centres - 100)  # and no instances
    box = np.zeros((32, 64), bool)
    box[8:20, 42:62] = True
    assert np.array_equal(object_mask("car right", unnamed, 0).numpy(), box)


def test_unknown_and_absent_objects_raise(street: tuple[Rendering, ParserOutput]) -> None:
    _, output = street
    with pytest.raises(BlobexError, match=r"no object is called 'red car': .*one of pedestrian, .*vehicle, road"):
        object_mask("red car", output, 0)
    with pytest.raises(BlobexError, match="no object is called 'ahead'"):
        object_mask("ahead", output, 0)
    with pytest.raises(BlobexError, match=r"there is no train left in the image, but .*\d car, .*road, .*sky"):
        object_mask("train left", output, 0)
