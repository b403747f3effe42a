"""The robust line through points, against scipy."""

import numpy as np
import pytest
from scipy.stats import theilslopes

from blobex.perception.ground import theil_sen


@pytest.mark.parametrize("count", [2, 3, 4, 17, 40])
def test_line_is_scipys(count):
    random = np.random.default_rng(count)
    x, y = random.permutation(count) / 64 - 0.3, random.normal(size=count).round(1)  # some heights are equal
    slope, offset, *_ = theilslopes(y, x)
    assert theil_sen(x, y) == (slope, offset)
