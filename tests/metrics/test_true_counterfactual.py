"""The true counterfactual against scenes edited by hand, and its distance in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from blobex.core.errors import BlobexError
from blobex.datasets.images import decode_jpeg, fit
from blobex.metrics.true_counterfactual import (
    VISIBLE,
    TrueCounterfactual,
    TrueDistance,
    nearest,
    true_counterfactuals,
    true_distance,
    without,
)
from blobex.scenes.render import cause_mask, render
from blobex.scenes.rules import PLAIN, Cause
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene, Thing
from blobex.scenes.write import encode_jpeg

BUSY = dataclasses.replace(
    sample(0),
    things=tuple(Thing("car", place, 9.0, (28, 70, 165)) for place in ("left", "ego", "right")),
    light="red",
    stop_sign=False,
    line_left="dashed",
    line_right="dashed",
    time="day",
    weather="clear",
)


def shown(scene: Scene, height: int = 64, width: int = 128) -> np.ndarray:
    return fit(decode_jpeg(encode_jpeg(render(scene, 64).image)), height, width)


def test_several_causes_are_removed_at_once() -> None:
    causes = {Cause("thing", 0), Cause("thing", 2), Cause("light")}
    left = without(BUSY, causes)
    assert [thing.place for thing in left.things] == ["ego"] and left.light == "none"
    assert not PLAIN.causes(without(BUSY, PLAIN.causes(BUSY, "forward")), "forward")


@pytest.mark.parametrize("width", [64, 128])
def test_truth_is_the_edited_scene_and_elsewhere_the_query(width: int) -> None:
    query, causes = shown(BUSY, width=width), PLAIN.causes(BUSY, "forward")
    removed, green = true_counterfactuals(BUSY, causes, query, 64)
    edited = [dataclasses.replace(BUSY, things=BUSY.things[::2], light=light) for light in ("none", "green")]
    for truth, scene in zip((removed, green), edited, strict=True):
        assert np.array_equal(truth.image[truth.altered], shown(scene, width=width)[truth.altered])
        assert np.array_equal(truth.image[~truth.altered], query[~truth.altered])
        assert truth.visible[truth.altered].any() and not truth.visible[~truth.altered].any()
        assert 0 < truth.altered.mean() < 0.5
    assert green.visible.sum() < removed.visible.sum()  # the light's box is still there
    assert nearest([removed, green], shown(edited[0], width=width)) is removed
    assert nearest([removed, green], shown(edited[1], width=width)) is green


def test_visible_pixels_of_one_cause_are_its_mask() -> None:
    (truth,) = true_counterfactuals(BUSY, PLAIN.causes(BUSY, "left"), shown(BUSY), 64)
    assert np.array_equal(truth.visible, cause_mask(BUSY, Cause("thing", 0), 64, VISIBLE))


def test_distance_of_truth_query_and_half_way() -> None:
    for action in ("forward", "left"):
        query = shown(BUSY)
        truth = true_counterfactuals(BUSY, PLAIN.causes(BUSY, action), query, 64)[0]
        whole = true_distance(query, truth.image, truth)
        assert (whole.ghost, whole.collateral) == (0, 0) and whole.query > VISIBLE / 3
        untouched = true_distance(query, query, truth)
        assert untouched == TrueDistance(whole.query, whole.query, 0)
        half = ((query.astype(int) + truth.image) // 2).astype(np.uint8)
        assert true_distance(query, half, truth).ghost == pytest.approx(whole.query / 2, abs=0.5)


def test_distances_by_hand() -> None:
    query = np.full((2, 2, 3), 100, np.uint8)
    image, answer = query.copy(), query.copy()
    image[0, 0], image[0, 1] = 160, 110  # the second change is altered, but not visible
    answer[0, 0], answer[0, 1], answer[1, 0] = (130, 160, 160), 250, 112
    altered, visible = np.array([[True, True], [False, False]]), np.array([[True, False], [False, False]])
    measured = true_distance(query, answer, TrueCounterfactual(image, altered, visible))
    assert measured == TrueDistance(ghost=10.0, query=60.0, collateral=6.0)


def test_no_truth_without_visible_causes() -> None:
    assert true_counterfactuals(BUSY, frozenset(), shown(BUSY), 64) == []
    hidden = Thing("pedestrian", "ego", 15.9, (28, 70, 165))
    scene = dataclasses.replace(BUSY, light="none", things=(Thing("bus", "ego", 4.0, (90, 90, 90)), hidden))
    assert true_counterfactuals(scene, {Cause("thing", 1)}, shown(scene), 64) == []


def test_images_of_other_scenes_are_refused() -> None:
    with pytest.raises(BlobexError, match="is not that of scene 0 at 64 rows"):
        true_counterfactuals(BUSY, {Cause("light")}, shown(sample(1)), 64)
