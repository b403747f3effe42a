"""Phrases as interventions: true readings of both scenes differ as the phrase says, and nothing else changes."""

from __future__ import annotations

import dataclasses

import pytest
from worlds.true_readings import reading_of

from blobex.perception.reading import scene_of_reading
from blobex.perception.sentences import general_phrases
from blobex.scenes.render import render
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene
from blobex.truth.scene_changes import is_rendered, scene_pair

SCENES = [sample(seed) for seed in range(40)]
FIELDS = {  # that a phrase may change
    "time turned night": {"time"},
    "time turned day": {"time"},
    "verge turned grass": {"verge"},
    "light turned green": {"light"},
    "red light removed": {"light"},
    "stop sign added": {"stop_sign"},
    "left line turned dashed": {"line_left"},
    "right line turned solid": {"line_right"},
    "vehicle ahead removed": {"things"},
    "vehicle on the left added": {"things"},
    "vehicle on the right removed": {"things"},
    "pedestrian ahead added": {"things"},
    "obstacle ahead removed": {"things"},
}


def phrases_of(before: Scene, after: Scene) -> list[str]:
    """What a parser without errors says of the two scenes."""
    readings = [reading_of(scene) for scene in (before, after)]
    seen = [
        scene_of_reading(reading, render(scene).image) for reading, scene in zip(readings, (before, after), strict=True)
    ]
    return general_phrases(*readings, (seen[0], seen[1]))


@pytest.mark.parametrize(("phrase", "fields"), FIELDS.items())
def test_true_readings_say_the_phrase(phrase: str, fields: set[str]) -> None:
    pairs = [pair for scene in SCENES if (pair := scene_pair(phrase, scene))][:12]
    assert is_rendered(phrase) and len(pairs) == 12
    told = [phrase in phrases_of(*pair) for pair in pairs]
    assert sum(told) >= 10  # something may hide the change
    for before, after in pairs:
        changed = {
            each.name for each in dataclasses.fields(Scene) if getattr(before, each.name) != getattr(after, each.name)
        }
        assert changed == fields


def test_both_directions_compare_the_same_two_scenes() -> None:
    for scene in SCENES:
        for thing in ("vehicle on the left", "pedestrian ahead", "red light", "stop sign"):
            there, back = (scene_pair(f"{thing} {what}", scene) for what in ("added", "removed"))
            assert (there is None) == (back is None)
            assert there is None or back is None or there == back[::-1]


def test_lanes_that_do_not_exist_or_are_taken_have_no_place() -> None:
    no_lane = next(scene for scene in SCENES if scene.line_left == "edge")
    assert scene_pair("vehicle on the left added", no_lane) is None
    taken = next(scene for scene in SCENES if any(thing.place == "left" for thing in scene.things))
    assert scene_pair("left line turned road edge", taken) is None


def test_only_what_the_renderer_knows_is_rendered() -> None:
    for phrase in (
        "vehicle on the left recoloured",
        "sky grew",
        "right line turned double yellow",
        "light turned dark",
    ):
        assert not is_rendered(phrase)
        with pytest.raises(KeyError):
            scene_pair(phrase, SCENES[0])
