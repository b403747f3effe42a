"""Differences between readings of scenes against the edits that were made to the scenes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from worlds.true_readings import reading_of

from blobex.core.errors import BlobexError
from blobex.perception.reading import DetectedObject, SceneReading
from blobex.perception.sentences import differences, matches, sentence, summary
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene, Thing

BLUE, RED = (28, 70, 165), (205, 32, 36)
BOX = (40.0, 30.0, 60.0, 50.0)
EMPTY = dataclasses.replace(
    sample(0),
    things=(),
    buildings=(),
    trees=(),
    light="none",
    stop_sign=False,
    line_left="dashed",
    line_right="dashed",
    time="day",
    weather="clear",
)


def scene_with(**changes: object) -> Scene:
    return dataclasses.replace(EMPTY, **changes)


def scene_of(kind: str, place: str, distance: float, colour: tuple[int, int, int] = BLUE) -> Scene:
    return scene_with(things=(Thing(kind, place, distance, colour),))


def sentence_of(before: Scene, after: Scene) -> str:
    return sentence(differences(reading_of(before), reading_of(after)))


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (scene_of("car", "ego", 8.0), "car ahead added"),
        (scene_of("pedestrian", "ego", 8.0), "pedestrian ahead added"),
        (scene_of("bicycle", "ego", 8.0), "bicycle ahead added"),
        (scene_of("barrier", "ego", 8.0), "fence ahead added"),
        (scene_of("car", "left", 10.0), "car on the left added"),
        (scene_of("car", "right", 10.0), "car on the right added"),
        (scene_with(light="green"), "green light added"),
        (scene_with(stop_sign=True), "stop sign added"),
    ],
)
def test_objects_added_and_removed(scene: Scene, expected: str) -> None:
    assert sentence_of(EMPTY, scene) == expected
    assert sentence_of(scene, EMPTY) == expected.replace("added", "removed")
    assert sentence_of(scene, scene) == "nothing that the parser sees changed"


def test_lights_lines_and_colours() -> None:
    assert sentence_of(scene_with(light="red"), scene_with(light="green")) == "light turned from red to green"
    assert sentence_of(EMPTY, scene_with(line_left="solid")) == "left line became solid"
    (line, *areas) = differences(reading_of(EMPTY), reading_of(scene_with(line_right="edge")))
    assert line.phrase == "right line became road edge"
    assert "other lanes shrank" in [change.general for change in areas]
    blue, red = (scene_of("car", "ego", 7.0, colour) for colour in (BLUE, RED))
    assert sentence_of(blue, red) == "car ahead turned from blue to red"


def with_signs(reading: SceneReading, count: int) -> SceneReading:
    """Add traffic signs to a reading, none of them a stop sign."""
    boxes = [(4.0 + 8 * n, 4.0, 12.0 + 8 * n, 12.0) for n in range(count)]
    signs = [DetectedObject("traffic sign", box, 0.9, BLUE, "ahead", 0.0, 9.0) for box in boxes]
    return dataclasses.replace(reading, objects=(*reading.objects, *signs))


def test_a_sign_beside_a_stop_sign_is_not_a_second_change() -> None:
    before, after = (with_signs(reading_of(scene), 1) for scene in (scene_with(stop_sign=True), EMPTY))
    assert sentence(differences(before, after)) == "stop sign removed"
    assert sentence(differences(after, before)) == "stop sign added"
    assert sentence(differences(with_signs(reading_of(EMPTY), 0), after)) == "traffic sign added"


def item(box: tuple[float, float, float, float], category: str = "car", score: float = 0.9) -> DetectedObject:
    return DetectedObject(category, box, score, BLUE, "ahead", 0.0, 8.0)


def reading_with(*objects: DetectedObject) -> SceneReading:
    return dataclasses.replace(reading_of(EMPTY), objects=objects)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (item((48.0, 30.0, 68.0, 50.0)), "car ahead moved right by 6% of the picture"),
        (item((32.0, 30.0, 52.0, 50.0)), "car ahead moved left by 6% of the picture"),
        (item((39.0, 32.0, 61.0, 56.0)), "car ahead moved nearer by 6% of the picture"),
        (item((36.0, 26.0, 64.0, 54.0)), "car ahead became larger"),
        (item((41.0, 30.0, 60.0, 50.0)), "nothing that the parser sees changed"),
        (item(BOX, "truck"), "car ahead became truck"),
        (item(BOX, "pedestrian"), "car ahead removed; pedestrian ahead added"),
        (item((47.0, 37.0, 52.0, 42.0)), "car ahead removed; car ahead added"),  # too small to be the same car
    ],
)
def test_movements_sizes_and_categories_by_hand(other: DetectedObject, expected: str) -> None:
    assert sentence(differences(reading_with(item(BOX)), reading_with(other))) == expected


def test_unsure_and_tiny_objects_are_no_changes() -> None:
    unsure = reading_with(item(BOX, score=0.25))
    assert not differences(reading_with(), unsure) and not differences(unsure, reading_with())
    assert not differences(reading_with(item(BOX)), unsure)
    assert not differences(reading_with(), reading_with(item((40.0, 30.0, 42.0, 32.0))))


def test_pairs_have_the_smallest_sum_of_costs() -> None:
    """Greedy matching would pair the second old box with the first new one and leave the first old box alone."""
    old = [item((10.0, 30, 20, 40)), item((20.0, 30, 30, 40))]
    new = [item((17.0, 30, 27, 40)), item((30.0, 30, 40, 40))]
    assert matches(old, new, 128) == [(0, 0), (1, 1)]
    assert matches(old, [item((90.0, 30, 100, 40))], 128) == []
    assert matches([], new, 128) == []


def test_summary_counts_explanations_not_changes() -> None:
    two = differences(reading_with(), reading_with(item(BOX), item((80.0, 30.0, 100.0, 50.0), "truck")))
    one = differences(reading_with(), reading_with(item(BOX)))
    assert summary([two, one, []]) == {"vehicle ahead added": pytest.approx(2 / 3)}
    lights = differences(reading_of(scene_with(light="red")), reading_of(scene_with(light="green")))
    assert summary([lights, [], [], []]) == {"light turned green": 0.25}
    with pytest.raises(BlobexError, match="no explanations"):
        summary([])


def test_changes_convert_to_json() -> None:
    changes = differences(reading_of(EMPTY), reading_of(scene_with(light="red")))
    assert json.loads(json.dumps([change.as_dict() for change in changes]))[0]["phrase"] == "red light added"


def test_readings_of_two_sizes_raise() -> None:
    with pytest.raises(BlobexError, match="cannot be compared"):
        differences(reading_of(EMPTY), reading_of(EMPTY, 32))
