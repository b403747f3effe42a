"""Differences that show in the pixels, by the labels and images of synthetic scenes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from worlds.plain_scene import plain_scene as scene_with
from worlds.true_readings import reading_of

from blobex.core.errors import BlobexError
from blobex.perception.visible import visible_differences
from blobex.scenes.render import render
from blobex.scenes.scene import Scene, Thing

EMPTY = scene_with()
CAR = Thing("car", "ego", 10.0, (40, 60, 200))


def phrases(before: Scene, after: Scene, image_after: np.ndarray | None = None) -> list[str]:
    """The visible differences of two scenes; `image_after` takes the place of the second one's image."""
    images = render(before, 64).image, render(after, 64).image if image_after is None else image_after
    return [change.phrase for change in visible_differences(reading_of(before), reading_of(after), *images)]


def test_what_did_not_change_a_pixel_is_not_told() -> None:
    """The reading of a bus where the image still shows the car: a mistake of the parser."""
    car, bus = scene_with(things=(CAR,)), scene_with(things=(dataclasses.replace(CAR, kind="bus"),))
    assert any("became bus" in phrase or "bus" in phrase for phrase in phrases(car, bus))
    image = render(car, 64).image
    assert phrases(car, bus, image) == []
    black_sky = image.copy()
    black_sky[:16] = 0
    assert phrases(car, bus, black_sky) == ["sky turned from blue to black"]


def test_what_changed_most_comes_first() -> None:
    both = scene_with(things=(CAR,), light="green")
    assert phrases(both, scene_with(light="red"))[0] == "car ahead removed"
    far = dataclasses.replace(CAR, distance=30.0)
    assert phrases(scene_with(things=(far,), stop_sign=True), EMPTY)[0] == "stop sign removed"


def test_night_and_verge_are_told_instead_of_what_follows_from_them() -> None:
    car = scene_with(things=(CAR,))
    night = phrases(car, dataclasses.replace(car, time="night"))
    assert night[0] == "scene turned from day to night" and not any("car" in phrase for phrase in night)
    other = "grass" if EMPTY.verge == "sidewalk" else "sidewalk"
    assert f"verge turned from {EMPTY.verge} to {other}" in phrases(EMPTY, dataclasses.replace(EMPTY, verge=other))


def test_line_is_told_if_its_paint_changed() -> None:
    solid = scene_with(line_left="solid")
    assert phrases(EMPTY, solid) == ["left line became solid"]
    assert phrases(EMPTY, solid, render(EMPTY, 64).image) == []


def test_new_lane_is_told_by_its_line_and_not_by_areas() -> None:
    told = phrases(EMPTY, scene_with(line_right="edge", things=(CAR,)))
    assert set(told[:2]) == {"right line became road edge", "car ahead added"}
    assert not any("road grew" in phrase or "road shrank" in phrase or "lane" in phrase for phrase in told)


def test_images_of_two_sizes_are_refused() -> None:
    reading = reading_of(EMPTY)
    with pytest.raises(BlobexError, match="cannot be compared"):
        visible_differences(reading, reading, np.zeros((4, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8))
