"""A plain scene, and cars to put into it."""

from dataclasses import replace

from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene, Thing, View


def plain_scene(**changes) -> Scene:
    """Return a scene with three lanes and nothing in them, with some fields changed."""
    plain = replace(
        sample(1),
        things=(),
        light="none",
        stop_sign=False,
        line_left="dashed",
        line_right="dashed",
        time="day",
        weather="clear",
        view=View(horizon=0.4, vanishing=0.0, offset=0.0),
        buildings=(),
        trees=(),
    )
    return replace(plain, **changes)


def car(place="ego", distance=8.0, kind="car") -> Thing:
    """Return a red car or another thing."""
    return Thing(kind, place, distance, (200, 30, 30))
