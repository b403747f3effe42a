"""Accuracies of groups against pandas and scipy, and the gain against its closed form."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from blobex.core.errors import BlobexError
from blobex.metrics.groups import gain, group_accuracies, worst_group

RANDOM = np.random.default_rng(0)
GROUPS = RANDOM.choice(["allowed", "refused", "night"], 200).tolist()
CORRECT = RANDOM.random(200) < 0.8


def test_accuracies_are_those_of_pandas():
    expected = pd.Series(CORRECT.astype(float)).groupby(GROUPS).mean()
    found = group_accuracies(CORRECT, GROUPS)
    assert {group: each.mean for group, each in found.items()} == pytest.approx(expected.to_dict())
    assert worst_group(found.values()).mean == pytest.approx(expected.min())


def test_intervals_are_those_of_scipy():
    for group, accuracy in group_accuracies(CORRECT, GROUPS).items():
        inside = CORRECT[np.array(GROUPS) == group]
        interval = binomtest(int(inside.sum()), len(inside)).proportion_ci(method="wilson")
        assert (accuracy.low, accuracy.high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize(("before", "after"), RANDOM.random((10, 2)).tolist())
def test_gain_is_the_share_of_errors_that_are_removed(before, after):
    """One minus the ratio of the error rates, as in the rate of relative error reduction."""
    assert gain(before, after) == pytest.approx(1 - (1 - after) / (1 - before))


def test_gain_at_its_ends():
    assert gain(0.3, 1.0) == 1.0 and gain(0.3, 0.3) == 0.0 and gain(1.0, 0.5) is None


def test_numbers_that_are_no_accuracies_are_refused():
    with pytest.raises(BlobexError, match="give one for each"):
        group_accuracies([1, 0], ["a"])
    with pytest.raises(BlobexError, match="not between 0 and 1"):
        gain(0.5, 97.0)
