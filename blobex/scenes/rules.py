"""Decision rules of the ego vehicle: its actions in a scene, their reasons and their causes.

The plain rules: stop if and only if the light is red, there is a stop sign, or a thing is near in the ego lane;
otherwise forward. Left (right) is allowed if and only if there is a lane behind a dashed line and no thing near in it.
The other RULES add a planted shortcut, which explanations should reveal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from blobex.core.errors import BlobexError
from blobex.scenes.scene import VEHICLES, Line, Place, Scene

ACTIONS = ("forward", "stop", "left", "right")

# Order of BDD-OIA's reason vectors according to the README of the data (f_follow_traffic, s_ob_car, no_l_solid_line).
# The order of the paper's table (Xu et al., CVPR 2020) would make riders twenty times as common an obstacle as cars.
# fmt: off
REASONS = (
    "forward: follow traffic", "forward: road is clear", "forward: traffic light is green",
    "stop: obstacle car", "stop: obstacle person", "stop: obstacle rider", "stop: obstacle others",
    "stop: traffic light", "stop: traffic sign",
    "left: front car turning left", "left: on the left-turn lane", "left: traffic light allows",
    "right: front car turning right", "right: on the right-turn lane", "right: traffic light allows",
    "no left: obstacles on the left lane", "no left: no lane on the left", "no left: solid line on the left",
    "no right: obstacles on the right lane", "no right: no lane on the right", "no right: solid line on the right",
)
# fmt: on

NEAR = 16.0  # metres; a thing up to this distance blocks its lane

Element = Literal["light", "sign", "line_left", "line_right", "lane_left", "lane_right", "thing", "time", "verge"]


@dataclass(frozen=True)
class Cause:
    """Element of a scene that forbids an action by itself."""

    element: Element
    thing: int = -1  # index in scene.things if the element is a thing


def actions(scene: Scene) -> tuple[bool, bool, bool, bool]:
    """Return whether the plain rules allow each of ACTIONS.

    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False, things=(), line_left="dashed", line_right="edge")
    >>> dict(zip(ACTIONS, actions(red)))
    {'forward': False, 'stop': True, 'left': True, 'right': False}
    """
    return PLAIN.actions(scene)


def causes(scene: Scene, action: str) -> frozenset[Cause]:
    """Return the elements that, each by itself, stop the vehicle ("forward", "stop") or forbid "left" or "right".

    Raises BlobexError if the action is unknown.

    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False, things=())
    >>> causes(red, "stop")
    frozenset({Cause(element='light', thing=-1)})
    """
    if action in ("forward", "stop"):
        light = {Cause("light")} if scene.light == "red" else set()
        sign = {Cause("sign")} if scene.stop_sign else set()
        return _near_things(scene, "ego") | light | sign
    if action == "left":
        return _near_things(scene, "left") | _line_causes(scene.line_left, "lane_left", "line_left")
    if action == "right":
        return _near_things(scene, "right") | _line_causes(scene.line_right, "lane_right", "line_right")
    raise BlobexError(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")


def remove(scene: Scene, cause: Cause) -> Scene:
    """Return the scene without a cause: the thing, sign or light removed, the line dashed, or a lane added.

    Night becomes day, and grass a sidewalk. The indices of the things after a removed one decrease by 1.

    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False, things=())
    >>> remove(red, Cause("light")).light
    'none'
    """
    if cause.element == "thing":
        return replace(scene, things=scene.things[: cause.thing] + scene.things[cause.thing + 1 :])
    return replace(scene, **_HARMLESS[cause.element])


def reasons(scene: Scene) -> tuple[bool, ...]:
    """Return whether each of the 21 REASONS holds.

    The four reasons about turn lanes and turning cars, which the scenes do not contain, are always False. A light
    allows a turn if it is green and the turn is allowed.

    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False, things=(), line_left="dashed", line_right="dashed")
    >>> [reason for reason, holds in zip(REASONS, reasons(red)) if holds]
    ['stop: traffic light']
    """
    forward, _, left, right = actions(scene)
    near = [scene.things[index].kind for index in _near(scene, "ego")]
    ahead = any(thing.place == "ego" and thing.kind in VEHICLES for thing in scene.things)
    green = scene.light == "green"
    return (
        forward and ahead,
        forward and not ahead,
        forward and green,
        any(kind in VEHICLES for kind in near),
        "pedestrian" in near,
        "bicycle" in near or "motorcycle" in near,
        "barrier" in near,
        scene.light == "red",
        scene.stop_sign,
        False,
        False,
        left and green,
        False,
        False,
        right and green,
        bool(_near(scene, "left")),
        scene.line_left == "edge",
        scene.line_left in ("solid", "double_yellow"),
        bool(_near(scene, "right")),
        scene.line_right == "edge",
        scene.line_right == "solid",
    )


def _line_causes(line: Line, lane: Element, paint: Element) -> frozenset[Cause]:
    if line == "dashed":
        return frozenset()
    return frozenset({Cause(lane if line == "edge" else paint)})


def _near_things(scene: Scene, place: Place) -> frozenset[Cause]:
    return frozenset(Cause("thing", index) for index in _near(scene, place))


def _near(scene: Scene, place: Place) -> list[int]:
    return [index for index, thing in enumerate(scene.things) if thing.place == place and thing.distance <= NEAR]


@dataclass(frozen=True)
class Rule:
    """Plain rules with a planted shortcut: further causes that forbid some actions."""

    name: str
    meaning: str  # of the shortcut
    refuses: tuple[str, ...]  # actions that the shortcut forbids
    shortcut: Callable[[Scene], frozenset[Cause]]

    def causes(self, scene: Scene, action: str) -> frozenset[Cause]:
        """Return the causes of the plain rules and those of the shortcut."""
        shortcut: frozenset[Cause] = self.shortcut(scene) if action in self.refuses else frozenset()
        return causes(scene, action) | shortcut

    def actions(self, scene: Scene) -> tuple[bool, bool, bool, bool]:
        """Return whether each of ACTIONS is allowed."""
        stop = bool(self.causes(scene, "stop"))
        return not stop, stop, not self.causes(scene, "left"), not self.causes(scene, "right")


def find_rule(name: str) -> Rule:
    """Return a rule by name; BlobexError if there is no such rule.

    >>> find_rule("night").meaning
    'no left at night'
    """
    if name not in RULES:
        raise BlobexError(f"unknown rule {name!r}: choose from {', '.join(RULES)}")
    return RULES[name]


def _nothing(scene: Scene) -> frozenset[Cause]:
    return frozenset()


def _near_left(scene: Scene) -> frozenset[Cause]:
    return _near_things(scene, "left")


def _night(scene: Scene) -> frozenset[Cause]:
    return frozenset({Cause("time")} if scene.time == "night" else ())


def _grass(scene: Scene) -> frozenset[Cause]:
    return frozenset({Cause("verge")} if scene.verge == "grass" else ())


_HARMLESS: dict[Element, dict[str, Any]] = {  # values of the scene with which an element is no cause
    "light": {"light": "none"},
    "sign": {"stop_sign": False},
    "time": {"time": "day"},
    "verge": {"verge": "sidewalk"},
    "line_left": {"line_left": "dashed"},
    "lane_left": {"line_left": "dashed"},
    "line_right": {"line_right": "dashed"},
    "lane_right": {"line_right": "dashed"},
}
PLAIN = Rule("plain", "no shortcut", (), _nothing)
RULES = {
    rule.name: rule
    for rule in (
        PLAIN,
        Rule("biased", "no right while something stands near in the left lane", ("right",), _near_left),
        Rule("night", "no left at night", ("left",), _night),
        Rule("verge", "stop where grass lies beside the road", ("forward", "stop"), _grass),
    )
}
