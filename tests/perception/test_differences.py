"""Changes that the reading finds against the edits that were made to a scene."""

from __future__ import annotations

import dataclasses
import json

import pytest
from worlds.true_readings import reading_of

from blobex.core.errors import BlobexError
from blobex.perception.differences import differences, matches, sentence, summary
from blobex.perception.reading import DetectedObject, SceneReading
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene, Thing

BLUE, RED = (28, 70, 165), (205, 32, 36)
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


def with_signs(reading: SceneReading, count: int) -> SceneReading:
    """A reading with more signs, none of them a stop sign."""
    signs = [
        DetectedObject("traffic sign", (4.0 + 8 * n, 4, 12.0 + 8 * n, 12), 0.9, BLUE, "ahead", 0, 9)
        for n in range(count)
    ]
    return dataclasses.replace(reading, objects=(*reading.objects, *signs))


def test_a_sign_beside_a_stop_sign_stays_one() -> None:
    before, after = (with_signs(reading_of(scene), 1) for scene in (edited(stop_sign=True), EMPTY))
    assert sentence(differences(before, after)) == "stop sign removed"
    assert sentence(differences(after, before)) == "stop sign added"
    assert sentence(differences(with_signs(reading_of(EMPTY), 0), after)) == "traffic sign added"


def said(before: Scene, after: Scene) -> str:
    return sentence(differences(reading_of(before), reading_of(after)))


def edited(**changes: object) -> Scene:
    return dataclasses.replace(EMPTY, **changes)


def thing(kind: str, place: str, distance: float, colour: tuple[int, int, int] = BLUE) -> Thing:
    return Thing(kind, place, distance, colour)


@pytest.mark.parametrize(
    ("scene", "added"),
    [
        (edited(things=(thing("car", "ego", 8.0),)), "car ahead added"),
        (edited(things=(thing("pedestrian", "ego", 8.0),)), "pedestrian ahead added"),
        (edited(things=(thing("bicycle", "ego", 8.0),)), "bicycle ahead added"),
        (edited(things=(thing("barrier", "ego", 8.0),)), "fence ahead added"),
        (edited(things=(thing("car", "left", 10.0),)), "car on the left added"),
        (edited(things=(thing("car", "right", 10.0),)), "car on the right added"),
        (edited(light="green"), "green light added"),
        (edited(stop_sign=True), "stop sign added"),
    ],
)
def test_what_is_added_and_removed(scene: Scene, added: str) -> None:
    assert said(EMPTY, scene) == added
    assert said(scene, EMPTY) == added.replace("added", "removed")
    assert said(scene, scene) == "nothing that the parser sees changed"


def test_what_turns() -> None:
    assert said(edited(light="red"), edited(light="green")) == "light turned from red to green"
    assert said(EMPTY, edited(line_left="solid")) == "left line turned from dashed to solid"
    (lane, *areas) = differences(reading_of(EMPTY), reading_of(edited(line_right="edge")))
    assert lane.phrase == "right line turned from dashed to road edge"
    assert "other lanes shrank" in [each.general for each in areas]
    cars = (edited(things=(thing("car", "ego", 7.0, colour),)) for colour in (BLUE, RED))
    assert said(*cars) == "car ahead turned from blue to red"


def seen(box: tuple[float, float, float, float], category: str = "car", score: float = 0.9) -> DetectedObject:
    return DetectedObject(category, box, score, BLUE, "ahead", 0.0, 8.0)


def frame(*objects: DetectedObject) -> SceneReading:
    return dataclasses.replace(reading_of(EMPTY), objects=objects)


def words(old: DetectedObject, new: DetectedObject) -> str:
    return sentence(differences(frame(old), frame(new)))


def test_movements_sizes_and_kinds_by_hand() -> None:
    box = (40.0, 30.0, 60.0, 50.0)
    assert words(seen(box), seen((48.0, 30.0, 68.0, 50.0))) == "car ahead moved right by 6% of the picture"
    assert words(seen(box), seen((32.0, 30.0, 52.0, 50.0))) == "car ahead moved left by 6% of the picture"
    assert words(seen(box), seen((39.0, 32.0, 61.0, 56.0))) == "car ahead moved nearer by 6% of the picture"
    assert words(seen(box), seen((36.0, 26.0, 64.0, 54.0))) == "car ahead became larger"
    assert words(seen(box), seen((41.0, 30.0, 60.0, 50.0))) == "nothing that the parser sees changed"
    assert words(seen(box), seen(box, "truck")) == "car ahead became truck"
    assert words(seen(box), seen(box, "pedestrian")) == "car ahead removed; pedestrian ahead added"
    assert words(seen(box), seen((47.0, 37.0, 52.0, 42.0))) == "car ahead removed; car ahead added"  # another car


def test_what_the_parser_is_not_sure_of_is_no_change() -> None:
    box = (40.0, 30.0, 60.0, 50.0)
    unsure = frame(seen(box, score=0.25))
    assert not differences(frame(), unsure) and not differences(unsure, frame())
    assert not differences(frame(seen(box)), unsure)  # it may still be there
    assert not differences(frame(), frame(seen((40.0, 30.0, 42.0, 32.0))))  # four pixels


def test_pairs_have_the_smallest_sum() -> None:
    """By hand: greedily, the second old box would take the first new one, and leave the first old box alone."""
    old = [seen((10.0, 30, 20, 40)), seen((20.0, 30, 30, 40))]
    new = [seen((17.0, 30, 27, 40)), seen((30.0, 30, 40, 40))]
    assert matches(old, new, 128) == [(0, 0), (1, 1)]
    assert matches(old, [seen((90.0, 30, 100, 40))], 128) == []
    assert matches([], new, 128) == []


def test_summary_counts_explanations_not_changes() -> None:
    box, other = (40.0, 30.0, 60.0, 50.0), (80.0, 30.0, 100.0, 50.0)
    two = differences(frame(), frame(seen(box), seen(other, "truck")))
    one = differences(frame(), frame(seen(box)))
    assert summary([two, one, []]) == {"vehicle ahead added": pytest.approx(2 / 3)}
    lights = differences(reading_of(edited(light="red")), reading_of(edited(light="green")))
    assert summary([lights, [], [], []]) == {"light turned green": 0.25}
    with pytest.raises(BlobexError, match="no explanations"):
        summary([])


def test_changes_go_into_json_and_sizes_must_agree() -> None:
    changes = differences(reading_of(EMPTY), reading_of(edited(light="red")))
    assert json.loads(json.dumps([each.as_dict() for each in changes]))[0]["phrase"] == "red light added"
    with pytest.raises(BlobexError, match="cannot be compared"):
        differences(reading_of(EMPTY), reading_of(EMPTY, 32))
