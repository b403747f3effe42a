"""Validation of scene records."""

import pytest
from worlds.plain_scene import car, plain_scene

from blobex.core.errors import BlobexError


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
