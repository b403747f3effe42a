"""Ranges that outputs of a regression are asked to reach."""

import math

import pytest

from blobex.core.errors import BlobexError
from blobex.counterfactual.ranges import Range, asked_range


def test_ranges_that_are_asked_for() -> None:
    assert asked_range(None, None, None) is None
    least, most, both = asked_range(0.5, None, None), asked_range(None, 0, None), asked_range(None, None, [-1, 2])
    assert least == Range(0.5, math.inf) and most == Range(-math.inf, 0.0) and both == Range(-1.0, 2.0)
    assert 0.5 in least and 0.49 not in least and -1e9 in most and 2 in both and 2.1 not in both
    assert math.nan not in least and math.nan not in most and math.nan not in both
    assert [each.words("speed") for each in (least, most, both)] == ["speed >= 0.5", "speed <= 0", "speed from -1 to 2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.5, 0.7, None), "both at_least and at_most are given: give one, or between"),
        ((0.5, None, (0, 1)), "both at_least and between"),
        ((math.nan, None, None), "at_least nan: give finite numbers"),
        ((None, math.inf, None), "at_most inf: give finite numbers"),
        ((None, None, (0, math.inf)), "give finite numbers"),
        ((None, None, (1, 1)), "between 1 and 1: give the smaller number first"),
        ((None, None, (2, 1)), "between 2 and 1"),
        ((None, None, (1, 2, 3)), r"between \(1, 2, 3\): give two numbers"),
    ],
)
def test_invalid_ranges_raise(arguments, words) -> None:
    with pytest.raises(BlobexError, match=words):
        asked_range(*arguments)
