"""Phrases as interventions on synthetic scenes: the scene without and with what a phrase names, all else equal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from blobex.scenes.rules import NEAR
from blobex.scenes.sample import CLOTHES, FAR, NEAR_EGO, NEAR_SIDE, VEHICLE_COLOURS
from blobex.scenes.scene import VEHICLES, Kind, Line, Place, Scene, Thing

ScenePair = tuple[Scene, Scene]  # before and after
FAMILIES: Mapping[str, tuple[Kind, ...]] = {
    "vehicle": ("car", "truck", "bus"),
    "cycle": ("motorcycle", "bicycle"),
    "pedestrian": ("pedestrian",),
    "obstacle": ("barrier",),
}
LINES: Mapping[str, Line] = {
    "dashed": "dashed", "solid": "solid", "double yellow": "double_yellow", "road edge": "edge"
}  # fmt: skip
WALK = (9.0, 26.0)  # metres ahead of people beside the road, as in random scenes


def scene_pair(phrase: str, scene: Scene) -> ScenePair | None:
    """Return a scene before and after the change of a phrase; None if this scene has no place for it.

    Both states are set, whatever the scene shows: "time turned day" compares its night with its day. New objects are
    as in random scenes, and follow the scene's seed. Raises KeyError for a phrase that is not `is_rendered`.

    >>> from blobex.scenes.sample import sample
    >>> [each.time for each in scene_pair("time turned day", sample(3))]
    ['night', 'day']
    """
    for pattern, change in _CHANGES.items():
        if match := re.fullmatch(pattern, phrase):
            return change(scene, *match.groups())
    raise KeyError(phrase)


def is_rendered(phrase: str) -> bool:
    """Return whether the renderer can change what a phrase names.

    >>> is_rendered("vehicle on the left removed"), is_rendered("vehicle on the left recoloured")
    (True, False)
    """
    return any(re.fullmatch(pattern, phrase) for pattern in _CHANGES)


def _time(scene: Scene, new: Literal["day", "night"]) -> ScenePair:
    return replace(scene, time="night" if new == "day" else "day"), replace(scene, time=new)


def _verge(scene: Scene, new: Literal["sidewalk", "grass"]) -> ScenePair:
    return replace(scene, verge="grass" if new == "sidewalk" else "sidewalk"), replace(scene, verge=new)


def _light_turned(scene: Scene, new: Literal["red", "green"]) -> ScenePair:
    return replace(scene, light="green" if new == "red" else "red"), replace(scene, light=new)


def _light(scene: Scene, colour: Literal["red", "green"], what: str) -> ScenePair:
    return _ordered(replace(scene, light="none"), replace(scene, light=colour), what)


def _stop_sign(scene: Scene, what: str) -> ScenePair:
    without = replace(scene, light="none")  # random scenes have no sign beside a light
    return _ordered(replace(without, stop_sign=False), replace(without, stop_sign=True), what)


def _line(scene: Scene, side: Literal["left", "right"], new: str) -> ScenePair | None:
    """Change a line. The road's edge has no lane beyond it, and so only empty lanes come and go."""
    name, line = f"line_{side}", LINES[new]
    other = getattr(scene, name)
    if other == line:
        other = "solid" if line == "dashed" else "dashed"
    occupied = any(thing.place == side for thing in scene.things)
    if "edge" in (line, other) and occupied:
        return None
    old: dict[str, Any] = {name: other}
    return replace(scene, **old), replace(scene, **{**old, name: line})


def _object(scene: Scene, family: str, where: str, what: str) -> ScenePair | None:
    """Remove all objects of a family at a place, or let one be there."""
    kinds = FAMILIES[family]

    def is_meant(thing: Thing) -> bool:
        if thing.kind not in kinds:
            return False
        if where in ("ahead", "far ahead"):
            return thing.place == "ego" and (thing.distance > NEAR) == (where == "far ahead")
        return thing.place.startswith(where.removeprefix("on the "))

    place, distances = _room(family, where)
    others = tuple(thing for thing in scene.things if not is_meant(thing))
    if getattr(scene, f"line_{place}", None) == "edge" or any(_in_way(thing, place, distances) for thing in others):
        return None
    present = scene.things
    if not any(is_meant(thing) and _in_way(thing, place, distances) for thing in present):
        present = (*present, _new_thing(scene, kinds, place, distances))
    return _ordered(replace(scene, things=others), replace(scene, things=present), what)


def _room(family: str, where: str) -> tuple[Place, tuple[float, float]]:
    """Return the place and the distances in metres at which an object appears."""
    if where in ("ahead", "far ahead"):
        return "ego", NEAR_EGO if where == "ahead" else FAR
    side: Literal["left", "right"] = "left" if where == "on the left" else "right"
    if family == "pedestrian":
        return "left_walk" if side == "left" else "right_walk", WALK
    return side, NEAR_SIDE


def _in_way(thing: Thing, place: Place, distances: tuple[float, float]) -> bool:
    """Return whether a thing is where one would appear; people beside the road have room for others."""
    return thing.place == place and (distances == WALK or (thing.distance > NEAR) == (distances == FAR))


def _new_thing(scene: Scene, kinds: tuple[Kind, ...], place: Place, distances: tuple[float, float]) -> Thing:
    random = np.random.default_rng([scene.seed, len(scene.things)])
    kind = kinds[int(random.integers(len(kinds)))]
    colours = VEHICLE_COLOURS if kind in (*VEHICLES, "barrier") else CLOTHES
    return Thing(kind, place, float(random.uniform(*distances)), colours[int(random.integers(len(colours)))])


def _ordered(without: Scene, present: Scene, what: str) -> ScenePair:
    return (without, present) if what == "added" else (present, without)


_SIDES = "on the left|on the right"
_CHANGES: Mapping[str, Callable[..., ScenePair | None]] = {  # by the form of a phrase
    r"time turned (day|night)": _time,
    r"verge turned (grass|sidewalk)": _verge,
    r"light turned (red|green)": _light_turned,
    r"(red|green) light (added|removed)": _light,
    r"stop sign (added|removed)": _stop_sign,
    r"(left|right) line turned (dashed|solid|road edge)": _line,
    r"(left) line turned (double yellow)": _line,
    rf"(vehicle|pedestrian) ({_SIDES}|ahead|far ahead) (added|removed)": _object,
    rf"(cycle) ({_SIDES}|ahead) (added|removed)": _object,
    r"(obstacle) (ahead) (added|removed)": _object,
}
