"""Scene records: lanes and validation."""

import pytest
from worlds.plain_scene import car, plain_scene

from blobex.core.errors import BlobexError


def test_lanes_follow_from_the_lines():
    assert (plain_scene().lanes, plain_scene().ego_lane) == (3, 1)
    assert (plain_scene(line_left="double_yellow").lanes, plain_scene(line_left="double_yellow").ego_lane) == (2, 0)
    assert (plain_scene(line_left="edge", line_right="edge").lanes, plain_scene(line_left="solid").ego_lane) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"line_right": "double_yellow"}, "oncoming"),
        ({"line_left": "dotted"}, "dotted"),
        ({"line_left": "edge", "things": (car("left"),)}, "left lane"),
        ({"line_right": "edge", "things": (car("right"),)}, "right lane"),
    ],
)
def test_invalid_scenes(changes, words):
    with pytest.raises(BlobexError, match=words):
        plain_scene(**changes)
