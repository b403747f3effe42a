"""What the rules of the synthetic world say of a picture: whether a counterfactual's decision is right, not just other.

The reading is made a scene again, as far as rules look at scenes, so that the rules stay in one place
(`scenes.rules`).
"""

from __future__ import annotations

from typing import cast, get_args

from blobex.metrics.reading import SceneReading, SeenObject
from blobex.scenes.rules import actions, biased_actions
from blobex.scenes.scene import LANE_WIDTH, Kind, Light, Place, Scene, Thing, View

LANE_EDGE = 1.4 * LANE_WIDTH  # metres; less than the lane's own, as a box shows the side of a vehicle beside the road


def decide_by_rule(reading: SceneReading, biased: bool = False) -> tuple[bool, bool, bool, bool]:
    """Which of `rules.ACTIONS` the scene allows: (forward, stop, left, right); `biased` as in `biased_actions`."""
    scene = scene_of_reading(reading)
    return biased_actions(scene) if biased else actions(scene)


def scene_of_reading(reading: SceneReading) -> Scene:
    """A scene with the lines, light, sign and things that were read, and nothing else that a picture needs."""
    return Scene(
        seed=0,
        line_left=reading.line_left,
        line_right=reading.line_right,
        light=cast(Light, reading.light if reading.light in get_args(Light) else "none"),
        stop_sign=reading.stop_sign,
        things=tuple(thing for seen in reading.objects if (thing := _thing(seen, reading)) is not None),
        time="day",
        weather="clear",
        verge="sidewalk",
        buildings=(),
        trees=(),
        view=View(reading.ground.horizon, reading.ground.vanishing, 0.0),
        light_x=0.0,
        dash_phase=0.0,
    )


def _thing(seen: SeenObject, reading: SceneReading) -> Thing | None:
    """What stands in one of the three lanes that rules look at; None for anything else.

    A rider is left out: his foot is not on the ground, and his cycle is an object of its own.
    """
    kind = "barrier" if seen.family == "obstacle" else seen.category
    if kind not in get_args(Kind) or abs(seen.lateral) > LANE_EDGE:
        return None
    place = "ego" if seen.place == "ahead" else seen.place
    if (place, "edge") in (("left", reading.line_left), ("right", reading.line_right)):
        return None
    return Thing(cast(Kind, kind), cast(Place, place), seen.distance, seen.colour)
