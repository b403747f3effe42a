"""Steering and brake against the plain rules, and by hand."""

from dataclasses import replace

import pytest

from blobex.scenes.controls import HALF, controls
from blobex.scenes.rules import ACTIONS, PLAIN
from blobex.scenes.sample import sample
from blobex.scenes.scene import Thing


def test_half_the_brake_is_the_rules_stop() -> None:
    decided = []
    for seed in range(200):
        scene = sample(seed)
        steering, brake = controls(scene)
        assert -1 <= steering <= 1 and 0 <= brake <= 1
        stop = PLAIN.actions(scene)[ACTIONS.index("stop")]
        assert (brake >= HALF) == stop
        decided.append(stop)
    assert 20 < sum(decided) < 180


@pytest.mark.parametrize(
    ("place", "distance", "expected"),
    [
        ("ego", 8.0, (0.0, 0.75)),
        ("ego", 40.0, (0.0, 0.0)),
        ("left", 16.0, (0.5, 0.0)),
        ("right", 24.0, (-0.25, 0.0)),
        ("left_kerb", 2.0, (0.0, 0.0)),
    ],
)
def test_things_by_hand(place, distance, expected) -> None:
    free = replace(sample(3), light="green", stop_sign=False, things=())
    scene = replace(free, things=(Thing("car", place, distance, (0, 0, 0)), Thing("car", place, 50.0, (0, 0, 0))))
    assert controls(scene) == pytest.approx(expected)
    assert controls(replace(scene, stop_sign=True)) == pytest.approx((expected[0], 1.0))
