"""Rules of the ego vehicle: actions, reasons and causes."""

from dataclasses import replace

import pytest

from blobex.core.errors import BlobexError
from blobex.scenes.rules import (
    ACTIONS,
    NEAR,
    REASONS,
    RULES,
    Cause,
    actions,
    causes,
    find_rule,
    reasons,
    remove,
)
from blobex.scenes.sample import sample
from blobex.scenes.scene import Thing

PLAIN = replace(sample(0), things=(), light="none", stop_sign=False, line_left="dashed", line_right="dashed")


def scene_with(**changes):
    return replace(PLAIN, **changes)


def thing(kind="car", place="ego", distance=9.0):
    return Thing(kind, place, distance, (90, 90, 90))


def true_reasons(scene):
    return {REASONS[index] for index, value in enumerate(reasons(scene)) if value}


# Changes of the plain scene, then the expected forward, stop, left, right.
TABLE = [
    ({}, (1, 0, 1, 1)),
    ({"light": "red"}, (0, 1, 1, 1)),
    ({"light": "green"}, (1, 0, 1, 1)),
    ({"stop_sign": True}, (0, 1, 1, 1)),
    ({"things": (thing(),)}, (0, 1, 1, 1)),
    ({"things": (thing(distance=30),)}, (1, 0, 1, 1)),
    ({"things": (thing("pedestrian"),)}, (0, 1, 1, 1)),
    ({"things": (thing("pedestrian", "right_walk"), thing("car", "left_kerb"))}, (1, 0, 1, 1)),
    ({"things": (thing("bus", "left"),)}, (1, 0, 0, 1)),
    ({"things": (thing("motorcycle", "right"),)}, (1, 0, 1, 0)),
    ({"things": (thing(place="left", distance=25), thing(place="right", distance=25))}, (1, 0, 1, 1)),
    ({"line_left": "solid"}, (1, 0, 0, 1)),
    ({"line_left": "double_yellow"}, (1, 0, 0, 1)),
    ({"line_left": "edge"}, (1, 0, 0, 1)),
    ({"line_right": "solid"}, (1, 0, 1, 0)),
    ({"line_right": "edge"}, (1, 0, 1, 0)),
    ({"light": "green", "line_left": "edge", "line_right": "edge", "things": (thing("barrier"),)}, (0, 1, 0, 0)),
]


@pytest.mark.parametrize(("changes", "expected"), TABLE)
def test_actions(changes, expected):
    assert actions(scene_with(**changes)) == tuple(map(bool, expected))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"forward: road is clear"}),
        ({"things": (thing(distance=30),)}, {"forward: follow traffic"}),
        (
            {"light": "green"},
            {
                "forward: road is clear",
                "forward: traffic light is green",
                "left: traffic light allows",
                "right: traffic light allows",
            },
        ),
        ({"light": "red"}, {"stop: traffic light"}),
        ({"stop_sign": True}, {"stop: traffic sign"}),
        ({"things": (thing("truck"),)}, {"stop: obstacle car"}),
        ({"things": (thing("pedestrian"),)}, {"stop: obstacle person"}),
        ({"things": (thing("bicycle"),)}, {"stop: obstacle rider"}),
        ({"things": (thing("motorcycle"),)}, {"stop: obstacle rider"}),
        ({"things": (thing("barrier"),)}, {"stop: obstacle others"}),
        (
            {"line_left": "edge", "line_right": "solid"},
            {"forward: road is clear", "no left: no lane on the left", "no right: solid line on the right"},
        ),
        (
            {"line_left": "double_yellow", "things": (thing(place="left"), thing(place="right"))},
            {
                "forward: road is clear",
                "no left: solid line on the left",
                "no left: obstacles on the left lane",
                "no right: obstacles on the right lane",
            },
        ),
        ({"line_right": "edge"}, {"forward: road is clear", "no right: no lane on the right"}),
    ],
)
def test_reasons(changes, expected):
    assert true_reasons(scene_with(**changes)) == expected


def test_reasons_agree_with_actions():
    for seed in range(400):
        scene = sample(seed)
        forward, stop, left, right = actions(scene)
        names = true_reasons(scene)
        assert any(name.startswith("forward") for name in names) == forward
        assert any(name.startswith("stop") for name in names) == stop
        assert any(name.startswith("no left") for name in names) != left
        assert any(name.startswith("no right") for name in names) != right
        assert len(reasons(scene)) == 21


def test_near_is_up_to_a_distance():
    assert (
        actions(scene_with(things=(thing(distance=NEAR),)))[1]
        and not actions(scene_with(things=(thing(distance=NEAR + 0.1),)))[1]
    )


def test_biased_rule_forbids_right_if_a_thing_is_near_on_the_left():
    assert RULES["biased"].actions(scene_with(things=(thing(place="left"),))) == (True, False, False, False)
    assert RULES["biased"].actions(scene_with(things=(thing(place="left", distance=30),))) == (True, False, True, True)
    assert RULES["biased"].actions(scene_with(things=(thing("car", "left_kerb"),))) == (True, False, True, True)
    assert RULES["biased"].causes(scene_with(things=(thing(place="left"),)), "right") == {Cause("thing", 0)}
    assert causes(scene_with(things=(thing(place="left"),)), "right") == frozenset()
    for seed in range(200):
        plain, biased = actions(sample(seed)), RULES["biased"].actions(sample(seed))
        assert plain[:3] == biased[:3] and biased[3] <= plain[3]


def test_causes():
    scene = scene_with(
        light="red", stop_sign=True, line_right="edge", things=(thing(place="left"), thing("pedestrian"))
    )
    assert causes(scene, "stop") == causes(scene, "forward") == {Cause("light"), Cause("sign"), Cause("thing", 1)}
    assert causes(scene, "left") == {Cause("thing", 0)}
    assert causes(scene, "right") == {Cause("lane_right")}
    assert causes(scene_with(line_left="double_yellow"), "left") == {Cause("line_left")}
    assert causes(scene_with(light="green"), "stop") == frozenset()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(("action", "position"), [("forward", 0), ("stop", 1), ("left", 2), ("right", 3)])
def test_action_changes_when_its_last_cause_is_removed(rule, action, position):
    edited = 0
    for seed in range(150):
        scene = sample(seed)
        before = rule.actions(scene)[position]
        # From the last thing to the first, so that the other indices stay valid.
        for cause in sorted(rule.causes(scene, action), key=lambda cause: -cause.thing):
            assert rule.actions(scene)[position] == before == (action == "stop")
            assert remove(scene, cause) != scene
            scene = remove(scene, cause)
            edited += 1
        assert rule.actions(scene)[position] == (action != "stop")
    assert edited > 50


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_shortcut_only_forbids(rule):
    """A shortcut applies in many scenes, so that a model can learn it; elsewhere the plain rules hold."""
    scenes = [sample(seed) for seed in range(400)]
    applies = [bool(rule.shortcut(scene)) for scene in scenes]
    for scene, shortcut in zip(scenes, applies, strict=True):
        plain, planted = actions(scene), rule.actions(scene)
        assert planted[0] <= plain[0] and planted[1] >= plain[1] and planted[2] <= plain[2] and planted[3] <= plain[3]
        changed = {name for name, one, two in zip(ACTIONS, plain, planted, strict=True) if one != two}
        assert changed <= set(rule.refuses) and (shortcut or not changed)
    assert rule.name == "plain" or 0.15 < sum(applies) / len(scenes) < 0.7
    assert rule.name == "plain" or any(rule.actions(scene) != actions(scene) for scene in scenes)


# Changes of the plain scene, then the expected actions of each rule with a shortcut.
PLANTED = [
    ({}, (1, 0, 1, 1), (1, 0, 1, 1), (1, 0, 1, 1)),
    ({"time": "night"}, (1, 0, 1, 1), (1, 0, 0, 1), (1, 0, 1, 1)),
    ({"time": "dusk"}, (1, 0, 1, 1), (1, 0, 1, 1), (1, 0, 1, 1)),
    ({"verge": "grass"}, (1, 0, 1, 1), (1, 0, 1, 1), (0, 1, 1, 1)),
    ({"things": (thing(place="left"),)}, (1, 0, 0, 0), (1, 0, 0, 1), (1, 0, 0, 1)),
]


@pytest.mark.parametrize(("changes", "biased", "night", "verge"), PLANTED)
def test_actions_of_planted_rules(changes, biased, night, verge):
    scene = replace(scene_with(time="day", verge="sidewalk"), **changes)
    for name, expected in (("biased", biased), ("night", night), ("verge", verge)):
        assert find_rule(name).actions(scene) == tuple(map(bool, expected))


def test_causes_of_planted_rules():
    scene = scene_with(time="night", verge="grass", light="red", line_left="solid")
    assert RULES["night"].causes(scene, "left") == {Cause("time"), Cause("line_left")}
    assert RULES["verge"].causes(scene, "stop") == {Cause("verge"), Cause("light")}
    assert RULES["verge"].causes(scene, "left") == {Cause("line_left")}
    with pytest.raises(BlobexError, match="unknown rule 'moon': choose from plain, biased, night, verge"):
        find_rule("moon")


def test_removing_other_things_changes_no_action():
    for seed in range(100):
        scene = sample(seed)
        blocking = {cause for action in ("stop", "left", "right") for cause in causes(scene, action)}
        for index in range(len(scene.things)):
            if Cause("thing", index) not in blocking:
                assert actions(remove(scene, Cause("thing", index))) == actions(scene)


def test_mirrored_scene_swaps_left_and_right():
    swap = {"left": "right", "right": "left", "left_kerb": "right_kerb", "right_kerb": "left_kerb"}
    for seed in range(200):
        scene = sample(seed)
        if scene.line_left == "double_yellow":
            continue
        things = tuple(replace(item, place=swap.get(item.place, item.place)) for item in scene.things)
        mirrored = replace(scene, line_left=scene.line_right, line_right=scene.line_left, things=things)
        forward, stop, left, right = actions(scene)
        assert actions(mirrored) == (forward, stop, right, left)


def test_unknown_action():
    with pytest.raises(BlobexError, match="fly"):
        causes(PLAIN, "fly")
