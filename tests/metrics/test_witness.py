"""What witnesses say, in cases worked out by hand and on scenes that are read without error."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from worlds.true_readings import reading_of

from blobex.metrics.witness import OVERLAP, legible_added, legible_objects, legible_removed, shared_flips
from blobex.perception.boxes import iou
from blobex.perception.sentences import ObjectChange, differences
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene, Thing

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
CAR, TRUCK = (Thing(kind, "ego", 8.0, (28, 70, 165)) for kind in ("car", "truck"))
SEEN = {
    "car": dataclasses.replace(EMPTY, things=(CAR,)),
    "pedestrian": dataclasses.replace(EMPTY, things=(Thing("pedestrian", "ego", 7.0, (200, 30, 30)),)),
    "barrier": dataclasses.replace(EMPTY, things=(Thing("barrier", "ego", 8.0, (200, 200, 200)),)),
    "green light": dataclasses.replace(EMPTY, light="green"),
    "stop sign": dataclasses.replace(EMPTY, stop_sign=True),
}


def changes_of(before: Scene, after: Scene) -> list[ObjectChange]:
    return differences(reading_of(before), reading_of(after))


def test_flips_are_shared_in_the_same_direction_only() -> None:
    yes, no = 3.0, -2.0
    before = torch.tensor([[no, yes], [no, yes], [no, yes], [yes, yes], [no, no]])
    after = torch.tensor([[yes, yes], [no, yes], [yes, no], [yes, yes], [yes, no]])
    columns, wanted = torch.tensor([0, 0, 1, 0, 0]), torch.tensor([True, True, False, True, False])
    assert shared_flips(before, after, columns, wanted).tolist() == [True, False, True, False, False]
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    columns = torch.arange(50) % 2
    decided = logits[torch.arange(50), columns] > 0
    assert shared_flips(logits, -logits, columns, ~decided).all()  # a witness that agrees by construction
    assert not shared_flips(logits, logits, columns, ~decided).any()  # one that sees no difference
    assert not shared_flips(logits, -logits, columns, decided).any()  # one that flips the other way


@pytest.mark.parametrize("name", SEEN)
def test_a_perfect_witness_sees_what_is_added_and_removed(name: str) -> None:
    empty, shown = reading_of(EMPTY), reading_of(SEEN[name])
    added, removed = changes_of(EMPTY, SEEN[name]), changes_of(SEEN[name], EMPTY)
    assert legible_added(added, shown) == [True] and legible_added(added, empty) == [False]
    assert legible_removed(removed, shown, empty) == [True] and legible_removed(removed, shown, shown) == [False]
    assert legible_removed(removed, empty, empty) == []  # it never saw the object
    assert legible_added(removed, shown) == legible_removed(added, shown, empty) == []


def test_objects_that_two_readings_share() -> None:
    car, truck = reading_of(SEEN["car"]), reading_of(dataclasses.replace(EMPTY, things=(TRUCK,)))
    assert legible_objects(car, car) == [True] and legible_objects(car, reading_of(EMPTY)) == [False]
    assert legible_objects(car, truck) == [False] and legible_objects(reading_of(EMPTY), car) == []


def test_an_added_object_needs_its_category_and_place() -> None:
    (added,) = changes_of(EMPTY, SEEN["car"])
    truck, left = (
        dataclasses.replace(EMPTY, things=(thing,)) for thing in (TRUCK, dataclasses.replace(CAR, place="left"))
    )
    assert added.box is not None and iou(added.box, reading_of(truck).objects[0].box) > OVERLAP
    assert legible_added([added], reading_of(truck)) == [False]
    assert legible_added([added], reading_of(left)) == [False]


def test_a_removed_object_is_not_gone_if_one_of_its_family_is_left() -> None:
    (removed,) = changes_of(SEEN["car"], EMPTY)
    truck = dataclasses.replace(EMPTY, things=(TRUCK,))
    assert legible_removed([removed], reading_of(SEEN["car"]), reading_of(truck)) == [False]
    pedestrian = reading_of(SEEN["pedestrian"])
    assert legible_removed([removed], reading_of(SEEN["car"]), pedestrian) == [True]


def test_a_light_needs_its_colour() -> None:
    (added,) = changes_of(EMPTY, SEEN["green light"])
    red = reading_of(dataclasses.replace(EMPTY, light="red"))
    assert legible_added([added], red) == [False]
    (removed,) = changes_of(SEEN["green light"], EMPTY)
    assert legible_removed([removed], reading_of(SEEN["green light"]), red) == [False]


def test_a_replaced_object_counts_as_its_new_category() -> None:
    wide = dataclasses.replace(EMPTY, things=(dataclasses.replace(TRUCK, distance=9.0),))
    changes = [change for change in changes_of(SEEN["car"], wide) if change.what == "replaced"]
    box = reading_of(wide).objects[0].box
    assert [(change.before, change.after, change.box) for change in changes] == [("car", "truck", box)]
    assert legible_added(changes, reading_of(wide)) == [True]
    assert legible_added(changes, reading_of(SEEN["car"])) == [False]


def test_changes_that_name_no_object_do_not_count() -> None:
    turned = changes_of(SEEN["green light"], dataclasses.replace(EMPTY, light="red"))
    lines = changes_of(EMPTY, dataclasses.replace(EMPTY, line_left="solid"))
    assert turned and lines
    assert legible_added([*turned, *lines], reading_of(EMPTY)) == []
    assert legible_removed([*turned, *lines], reading_of(EMPTY), reading_of(EMPTY)) == []
