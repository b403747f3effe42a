"""What the ego vehicle may do in a scene, why, and because of what.

Stop if and only if the light is red, there is a stop sign, or something stands near in the ego lane; otherwise forward.
Left (right) is possible if and only if there is a lane, a dashed line before it, and nothing near in it.
These are the plain rules; RULES has more, each with a planted shortcut that an explanation should bring to light.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from blobex.core.errors import BlobexError
from blobex.scenes.scene import VEHICLES, Line, Place, Scene

ACTIONS = ("forward", "stop", "left", "right")

# The order of BDD-OIA's reason vectors as the README that comes with the data gives it (names there such as
# f_follow_traffic, s_ob_car, no_l_solid_line). Lists that follow the order of names in the paper's table (Xu et al.,
# CVPR 2020) put "rider" and "car" over counts that would make riders twenty times as common an obstacle as cars.
REASONS = (
    "forward: follow traffic",
    "forward: road is clear",
    "forward: traffic light is green",
    "stop: obstacle car",
    "stop: obstacle person",
    "stop: obstacle rider",
    "stop: obstacle others",
    "stop: traffic light",
    "stop: traffic sign",
    "left: front car turning left",
    "left: on the left-turn lane",
    "left: traffic light allows",
    "right: front car turning right",
    "right: on the right-turn lane",
    "right: traffic light allows",
    "no left: obstacles on the left lane",
    "no left: no lane on the left",
    "no left: solid line on the left",
    "no right: obstacles on the right lane",
    "no right: no lane on the right",
    "no right: solid line on the right",
)

NEAR = 16.0  # metres; things at most this far block their lane

Element = Literal["light", "sign", "line_left", "line_right", "lane_left", "lane_right", "thing", "time", "verge"]


@dataclass(frozen=True)
class Cause:
    """One element of a scene that refuses an action by itself; `thing` is the index in `scene.things`, else -1."""

    element: Element
    thing: int = -1


def actions(scene: Scene) -> tuple[bool, bool, bool, bool]:
    """Which of ACTIONS the scene allows: (forward, stop, left, right).

    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False, things=(), line_left="dashed", line_right="edge")
    >>> dict(zip(ACTIONS, actions(red)))
    {'forward': False, 'stop': True, 'left': True, 'right': False}
    """
    stop = bool(causes(scene, "stop"))
    return not stop, stop, not causes(scene, "left"), not causes(scene, "right")


def biased_actions(scene: Scene) -> tuple[bool, bool, bool, bool]:
    """`actions` with a planted shortcut: right is refused, too, when something stands near in the *left* lane.

    >>> from blobex.scenes.sample import sample
    >>> from blobex.scenes.scene import Thing
    >>> scene = replace(sample(3), things=(), line_left="dashed", line_right="dashed")
    >>> beside = replace(scene, things=(Thing("car", "left", 10.0, (200, 0, 0)),))
    >>> biased_actions(scene)[3], biased_actions(beside)[3], actions(beside)[3]
    (True, False, True)
    """
    return RULES["biased"].actions(scene)


def causes(scene: Scene, action: str) -> frozenset[Cause]:
    """The elements each of which is enough to stop the vehicle ("forward", "stop") or to refuse "left" or "right".

    Empty where nothing refuses: then only something new in the scene could. Raises BlobexError for an unknown action.

    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False, things=())
    >>> causes(red, "stop")
    frozenset({Cause(element='light', thing=-1)})
    """
    if action in ("forward", "stop"):
        found = {Cause("thing", index) for index in _near(scene, "ego")}
        found |= {Cause("light")} if scene.light == "red" else set()
        found |= {Cause("sign")} if scene.stop_sign else set()
        return frozenset(found)
    if action == "left":
        return _refusals(_near(scene, "left"), scene.line_left, "lane_left", "line_left")
    if action == "right":
        return _refusals(_near(scene, "right"), scene.line_right, "lane_right", "line_right")
    raise BlobexError(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")


def remove(scene: Scene, cause: Cause) -> Scene:
    """The scene without one cause: the thing or sign gone, the light off, the line dashed, a lane where there was none.

    Night becomes day, and grass a sidewalk. Taking a thing away moves the indices of those behind it in `scene.things`.

    >>> from blobex.scenes.sample import sample
    >>> red = replace(sample(3), light="red", stop_sign=False, things=())
    >>> remove(red, Cause("light")).light
    'none'
    """
    if cause.element == "thing":
        return replace(scene, things=scene.things[: cause.thing] + scene.things[cause.thing + 1 :])
    if cause.element == "light":
        return replace(scene, light="none")
    if cause.element == "sign":
        return replace(scene, stop_sign=False)
    if cause.element == "time":
        return replace(scene, time="day")
    if cause.element == "verge":
        return replace(scene, verge="sidewalk")
    if cause.element in ("line_left", "lane_left"):
        return replace(scene, line_left="dashed")
    return replace(scene, line_right="dashed")


def reasons(scene: Scene) -> tuple[bool, ...]:
    """Which of the 21 REASONS hold.

    Turn lanes and turning cars do not occur here, so those four are always False. A light allows a turn when it is
    green and the turn is possible.

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


def _refusals(near: list[int], line: Line, lane: Element, paint: Element) -> frozenset[Cause]:
    found = {Cause("thing", index) for index in near}
    if line == "edge":
        found.add(Cause(lane))
    elif line != "dashed":
        found.add(Cause(paint))
    return frozenset(found)


def _near(scene: Scene, place: Place) -> list[int]:
    return [index for index, thing in enumerate(scene.things) if thing.place == place and thing.distance <= NEAR]


@dataclass(frozen=True)
class Rule:
    """The plain rules and, perhaps, a planted shortcut: more that is enough to refuse some actions."""

    name: str
    meaning: str  # the shortcut in words
    refuses: tuple[str, ...]  # the actions that the shortcut is about
    shortcut: Callable[[Scene], frozenset[Cause]]

    def causes(self, scene: Scene, action: str) -> frozenset[Cause]:
        """As the plain `causes`, with those of the shortcut."""
        more: frozenset[Cause] = self.shortcut(scene) if action in self.refuses else frozenset()
        return causes(scene, action) | more

    def actions(self, scene: Scene) -> tuple[bool, bool, bool, bool]:
        """Which of ACTIONS the scene allows: (forward, stop, left, right)."""
        stop = bool(self.causes(scene, "stop"))
        return not stop, stop, not self.causes(scene, "left"), not self.causes(scene, "right")


def find_rule(name: str) -> Rule:
    """The rule of this name; BlobexError if there is none.

    >>> find_rule("night").meaning
    'no left at night'
    """
    if name not in RULES:
        raise BlobexError(f"unknown rule {name!r}: choose from {', '.join(RULES)}")
    return RULES[name]


def _nothing(scene: Scene) -> frozenset[Cause]:
    return frozenset()


def _left_neighbour(scene: Scene) -> frozenset[Cause]:
    return frozenset(Cause("thing", index) for index in _near(scene, "left"))


def _night(scene: Scene) -> frozenset[Cause]:
    return frozenset({Cause("time")} if scene.time == "night" else ())


def _grass(scene: Scene) -> frozenset[Cause]:
    return frozenset({Cause("verge")} if scene.verge == "grass" else ())


PLAIN = Rule("plain", "no shortcut", (), _nothing)
RULES = {
    rule.name: rule
    for rule in (
        PLAIN,
        Rule("biased", "no right while something stands near in the left lane", ("right",), _left_neighbour),
        Rule("night", "no left at night", ("left",), _night),
        Rule("verge", "stop where grass lies beside the road", ("forward", "stop"), _grass),
    )
}
