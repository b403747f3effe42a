"""Steering and brake of the ego vehicle in a scene, which agree with the plain rules: it stops from half the brake."""

from __future__ import annotations

from blobex.scenes.rules import NEAR
from blobex.scenes.scene import Place, Scene

CONTROLS = ("steering", "brake")
HALF = 0.5  # brake from which the plain rules say stop
REACH = NEAR / HALF  # metres; a thing farther away changes nothing


def controls(scene: Scene) -> tuple[float, float]:
    """Return steering in [-1,1], above 0 to the right, and brake in [0,1].

    The brake is full for a red light or a stop sign, else 1 at a thing in the ego lane that touches the camera, half at
    `rules.NEAR` and 0 from twice that distance. Steering keeps away from the nearest things in the lanes beside, in the
    same measure.

    >>> from dataclasses import replace
    >>> from blobex.scenes.sample import sample
    >>> from blobex.scenes.scene import Thing
    >>> free = replace(sample(3), light="none", stop_sign=False, things=())
    >>> controls(free), controls(replace(free, light="red"))
    ((0.0, 0.0), (0.0, 1.0))
    >>> controls(replace(free, things=(Thing("car", "ego", 16.0, (0, 0, 0)), Thing("bus", "left", 8.0, (0, 0, 0)))))
    (0.75, 0.5)
    """
    brake = 1.0 if scene.light == "red" or scene.stop_sign else _closeness(scene, "ego")
    return _closeness(scene, "left") - _closeness(scene, "right"), brake


def _closeness(scene: Scene, place: Place) -> float:
    distance = min((thing.distance for thing in scene.things if thing.place == place), default=REACH)
    return min(1.0, max(0.0, 1 - distance / REACH))
