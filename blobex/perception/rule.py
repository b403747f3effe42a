"""What the rules of the synthetic world say of a picture: whether a counterfactual's decision is right, not just other.

The reading is made a scene again, as far as rules look at scenes, so that the rules stay in one place
(`scenes.rules`).
"""

from __future__ import annotations

from typing import cast, get_args

import numpy as np

from blobex.perception.reading import SceneReading, SeenObject
from blobex.scenes.rules import PLAIN, Rule
from blobex.scenes.scene import LANE_WIDTH, Kind, Light, Place, Scene, Thing, View

SKY = 0.12  # of the picture's height: above that there is more sky than anything else
DARK = 54.0  # grey levels of the darkest quarter there, below which it is night; dusk has 59 or more, night 47 or less
LANE_EDGE = 1.4 * LANE_WIDTH  # metres; less than the lane's own, as a box shows the side of a vehicle beside the road


def decide_by_rule(reading: SceneReading, picture: np.ndarray, rule: Rule = PLAIN) -> tuple[bool, bool, bool, bool]:
    """Which of `rules.ACTIONS` a picture, uint8 (H,W,3), allows: (forward, stop, left, right)."""
    return rule.actions(scene_of_reading(reading, picture))


def scene_of_reading(reading: SceneReading, picture: np.ndarray) -> Scene:
    """A scene with the lines, light, sign, things, verge and night that were read, and nothing else that it needs.

    Dusk is read as day, as no rule tells them apart.
    """
    return Scene(
        seed=0,
        line_left=reading.line_left,
        line_right=reading.line_right,
        light=cast(Light, reading.light if reading.light in get_args(Light) else "none"),
        stop_sign=reading.stop_sign,
        things=tuple(thing for seen in reading.objects if (thing := _thing(seen, reading)) is not None),
        time="night" if is_night(picture) else "day",
        weather="clear",
        verge="grass" if reading.areas["terrain"] > reading.areas["sidewalk"] else "sidewalk",
        buildings=(),
        trees=(),
        view=View(reading.ground.horizon, reading.ground.vanishing, 0.0),
        light_x=0.0,
        dash_phase=0.0,
    )


def is_night(picture: np.ndarray) -> bool:
    """Whether the sky of a picture, uint8 (H,W,3), is that of the night.

    The darkest quarter of the uppermost rows tells: buildings are darker than the sky by day, but not as dark as that.

    >>> is_night(np.zeros((64, 128, 3), np.uint8)), is_night(np.full((64, 128, 3), 150, np.uint8))
    (True, False)
    """
    sky = picture[: max(1, int(SKY * len(picture)))].mean(axis=2)
    return bool(np.quantile(sky, 0.25) < DARK)


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
