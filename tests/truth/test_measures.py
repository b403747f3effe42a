"""Measures of the truth benchmark, against hand-worked cases, scipy and the scenes themselves."""

import dataclasses

import numpy as np
import pytest

from blobex.scenes.render import render
from blobex.scenes.rules import RULES, Cause, remove
from blobex.scenes.sample import sample
from blobex.truth.evaluation import cause_masks, cause_precision, cause_recall, change_map


def test_change_is_the_largest_over_channels() -> None:
    before = np.zeros((2, 2, 3), np.uint8)
    after = before.copy()
    after[0, 1] = (3, 200, 7)
    after[1, 0] = (0, 0, 5)
    assert change_map(before, after).tolist() == [[0, 200], [5, 0]]
    assert np.array_equal(change_map(after, before), change_map(before, after))  # bytes do not wrap


def test_recall_and_precision_by_hand() -> None:
    change = np.zeros((4, 6))
    change[0, :2], change[3, 5] = 20, 60
    first, second = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    first[0, :2], second[2, :4] = True, True
    assert cause_recall(change, [first, second], 16) == 0.5
    assert cause_recall(change, [first], 20) == 1 and cause_recall(change, [first], 20.1) == 0
    assert cause_recall(change, [], 16) is None
    assert cause_precision(change, [first], 0) == pytest.approx(40 / 100)
    assert cause_precision(change, [second], 0) == 0
    assert cause_precision(change, [second], 1) == pytest.approx(0)  # grown by one pixel: rows 1 to 3, columns 0 to 4
    assert cause_precision(change, [second], 2) == 1  # rows 0 to 4, columns 0 to 5
    assert cause_precision(np.zeros((4, 6)), [first], 0) is None


def scenes_that_stop(count: int) -> list:
    found = [scene for scene in map(sample, range(300)) if RULES["plain"].causes(scene, "stop")]
    return found[:count]


def test_red_light_is_touched_if_it_turns_green() -> None:
    red = [scene for scene in map(sample, range(300)) if scene.light == "red"][:10]
    for scene in red:
        light = {Cause("light")}
        green = change_map(*(render(dataclasses.replace(scene, light=light), 64).image for light in ("red", "green")))
        (essential,), (whole,) = (cause_masks(scene, light, 64, 128, part) for part in (True, False))
        assert 0 < essential.sum() < whole.sum() / 4
        assert cause_recall(green, [essential], 16) == 1
        removed = change_map(render(scene, 64).image, render(remove(scene, Cause("light")), 64).image)
        assert cause_recall(removed, [essential], 16) == 1


def test_removing_a_cause_touches_it_and_nothing_else() -> None:
    """The scene rendered without its cause is the perfect explanation."""
    seen = missed = 0
    for scene in scenes_that_stop(30):
        causes = RULES["plain"].causes(scene, "stop")
        if len(causes) != 1:
            continue
        (cause,) = causes
        masks = cause_masks(scene, causes, 64, 128)
        change = change_map(render(scene, 64).image, render(remove(scene, cause), 64).image)
        if masks:
            seen += 1
            assert cause_recall(change, masks, 16) == 1
            assert cause_precision(change, masks, 2) > 0.9
            elsewhere = change_map(render(scene, 64).image, render(dataclasses.replace(scene, trees=()), 64).image)
            apart = all(elsewhere[mask].max() < 16 for mask in masks)
            assert not apart or cause_recall(elsewhere, masks, 16) == 0
            missed += apart
    assert seen >= 10 and missed >= 5
