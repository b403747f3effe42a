"""Precision and recall against cases on a line, worked out by hand, and distances by scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.metrics.feature_sets import PrecisionRecall, precision_recall


def line(*points: float) -> Tensor:
    return torch.tensor(points)[:, None]


def cloud(seed: int, count: int, size: int = 4, shift: float = 0.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, size, generator=random) + shift


def test_on_a_line_with_one_neighbour() -> None:
    real, generated = line(0, 1, 2, 3), line(-1, 1.5, 4.5, 7)
    # Real balls have radius 1: from -1 (its surface included) to 4. Of the generated ones, -1 and 1.5 lie there.
    # Generated radii 2.5, 2.5, 2.5, 2.5: from -3.5 to 1.5, -1 to 4, 2 to 7 and 4.5 to 9.5.
    assert precision_recall(real, generated, neighbours=1) == PrecisionRecall(0.5, 1.0)
    # A tight clump far from the rest of the real points covers one of four; all of it is among them.
    clump = line(0, 0.25, 0.5)
    assert precision_recall(real, clump, neighbours=1) == PrecisionRecall(1.0, 0.25)


def test_on_a_line_with_two_neighbours() -> None:
    real, generated = line(0, 1, 3, 7), line(-3, 11, 13.5, 14)
    # Real radii to the second neighbour: 3, 2, 3, 6, so that all from -3 to 13 is covered: -3 and 11 are inside.
    # Generated radii: 16.5, 3, 2.5, 3, from -19.5 to 13.5: all real points lie in the first ball.
    assert precision_recall(real, generated, neighbours=2) == PrecisionRecall(0.5, 1.0)
    # Without the far point they are 3, 2.5 and 3: none reaches below 8.
    assert precision_recall(real, generated[1:], neighbours=2) == PrecisionRecall(1 / 3, 0.0)


@pytest.mark.parametrize("in_memory", [1, 100, 2**24])
@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_equals_sorted_distances_of_scipy_whatever_fits_in_memory(neighbours: int, in_memory: int) -> None:
    real, generated = cloud(1, 50), cloud(2, 37, shift=1.5)

    def share(points: Tensor, centres: Tensor) -> float:
        a, b = (each.numpy().astype(np.float64) for each in (points, centres))
        radii = np.sort(cdist(b, b), axis=1)[:, neighbours]  # column 0 is the point itself
        return float(np.mean([np.any(np.linalg.norm(point - b, axis=1) <= radii) for point in a]))

    result = precision_recall(real, generated, neighbours, in_memory)
    assert result == PrecisionRecall(share(generated, real), share(real, generated))
    assert 0 < result.precision < 1 and 0 < result.recall < 1


def test_properties() -> None:
    real = cloud(1, 60)
    assert precision_recall(real, real.clone()) == PrecisionRecall(1.0, 1.0)
    assert precision_recall(real, real + 1000) == PrecisionRecall(0.0, 0.0)
    narrow = precision_recall(real, 0.1 * cloud(2, 60))  # good images of a few kinds
    assert narrow.precision > 0.95 and narrow.recall < 0.3
    swapped = precision_recall(0.1 * cloud(2, 60), real)
    assert (swapped.precision, swapped.recall) == (narrow.recall, narrow.precision)


def test_neighbours_are_other_images_and_many_copies_raise() -> None:
    real, twice = cloud(1, 20), cloud(1, 20).repeat(2, 1)
    assert precision_recall(real, twice).precision == 1.0  # two of each are fewer than k + 1 = 4
    with pytest.raises(BlobexError, match=r"4 or more generated images have the same features .* number 0"):
        precision_recall(real, cloud(1, 20).repeat(4, 1))
    copies = torch.cat([cloud(3, 5), cloud(1, 1).repeat(4, 1)])
    with pytest.raises(BlobexError, match=r"4 or more real images have the same features .* number 5"):
        precision_recall(copies, real)


def test_invalid_input_raises() -> None:
    with pytest.raises(BlobexError, match="has 3 images: this measure needs 4 or more"):
        precision_recall(cloud(1, 3), cloud(2, 10))
    with pytest.raises(BlobexError, match="needs 4 or more"):
        precision_recall(cloud(1, 10), cloud(2, 0))
    with pytest.raises(BlobexError, match="10x4 and 10x5 cannot be compared"):
        precision_recall(cloud(1, 10), cloud(2, 10, size=5))
    with pytest.raises(BlobexError, match="not finite"):
        precision_recall(cloud(1, 10), cloud(2, 10) * float("nan"))
    with pytest.raises(BlobexError, match="0 neighbours"):
        precision_recall(cloud(1, 10), cloud(2, 10), neighbours=0)
