"""Choice of the blobs that paint a region, on layouts whose answer is known by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import splat
from blobex.perception.regions import painting_blobs, parse_region

HEIGHT, WIDTH = 32, 64


def plain_layout(xs: list[float], ys: list[float], sizes: list[float]) -> BlobLayout:
    count = len(xs)
    return BlobLayout(
        xs=torch.tensor([xs]),
        ys=torch.tensor([ys]),
        covs=torch.tensor([0.0, 0, 1, 0]).repeat(1, count, 1),
        sizes=torch.tensor([[0.0, *sizes]]),
        features=torch.zeros(1, count + 1, 1),
        spatial_style=torch.zeros(1, count + 1, 1),
    )


def test_blob_inside_the_region_is_chosen() -> None:
    places = [(0.15, 0.5), (0.5, 0.2), (0.8, 0.7)]
    scores = splat(plain_layout([x for x, _ in places], [y for _, y in places], [3.0, 3, 3]), HEIGHT, WIDTH)
    for number, (x, y) in enumerate(places):
        box = f"{x - 0.05},{y - 0.1},{x + 0.05},{y + 0.1}"
        chosen, background = painting_blobs(scores, parse_region(box, HEIGHT, WIDTH)[None])
        assert chosen == [[number]] and background == [False]


def painted(*shares: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Score maps of blobs that paint given shares of a region of 100 pixels and of the 900 pixels elsewhere."""
    scores = torch.zeros(1, len(shares) + 1, 20, 50)
    region = torch.zeros(1, 20, 50, dtype=torch.bool)
    region[:, :2] = True
    for number, share in enumerate(shares):
        scores[0, number + 1, :2], scores[0, number + 1, 2:] = share["inside"], share["elsewhere"]
    scores[:, 0] = 1 - scores[:, 1:].sum(1)
    return scores, region


@pytest.mark.parametrize(
    ("inside", "elsewhere", "chosen"),
    [
        ([0.11, 0.8], [0.11, 0.0], [0, 1]),  # a tenth of the region
        ([0.09, 0.8], [0.09, 0.0], [1]),  # less, and mostly elsewhere
        ([0.03, 0.8], [0.003, 0.0], [0, 1]),  # little, but most of what it paints
        ([0.03, 0.8], [0.004, 0.0], [1]),
        ([0.01, 0.8], [0.0, 0.0], [1]),  # too little
        ([0.07, 0.06], [0.07, 0.06], [0]),  # none qualifies: the strongest
        ([0.06, 0.07], [0.06, 0.07], [1]),
    ],
)
def test_choice_by_hand(inside: list[float], elsewhere: list[float], chosen: list[int]) -> None:
    scores, region = painted(*({"inside": a, "elsewhere": b} for a, b in zip(inside, elsewhere, strict=True)))
    most = 1 - sum(inside) > 0.5
    assert painting_blobs(scores, region) == ([chosen], [False])
    assert painting_blobs(scores, region, background=True) == ([chosen], [most])


def test_regions_that_no_blob_paints_raise() -> None:
    scores, region = painted({"inside": 0.04, "elsewhere": 0.5})
    with pytest.raises(BlobexError, match="the region is painted by the background: allow it or choose another"):
        painting_blobs(scores, region)
    assert painting_blobs(scores, region, background=True) == ([[]], [True])
    many, region = painted(*[{"inside": 0.04, "elsewhere": 0.04}] * 24)
    with pytest.raises(BlobexError, match="painted by many blobs"):
        painting_blobs(many, region, background=True)
    with pytest.raises(BlobexError, match="of image 1 is"):
        painting_blobs(torch.cat([splat(plain_layout([0.5], [0.0], [9.0]), 20, 50), scores]), region)
    with pytest.raises(BlobexError, match="no pixel"):
        painting_blobs(scores, region & False)
    for wrong in (region[0], region.float(), region[:, 1:], region.expand(3, -1, -1)):
        with pytest.raises(BlobexError, match=r"bool \(1 or 1,20,50\)"):
            painting_blobs(scores, wrong)


def test_whole_image_selects_all_blobs_that_paint_two_percent() -> None:
    random = torch.Generator().manual_seed(0)
    places = torch.rand(6, 2, 8, generator=random)
    sizes = torch.randn(6, 8, generator=random) * 3
    layouts = [plain_layout(x.tolist(), y.tolist(), size.tolist()) for (x, y), size in zip(places, sizes, strict=True)]
    scores = torch.cat([splat(layout, HEIGHT, WIDTH) for layout in layouts])
    chosen, background = painting_blobs(scores, torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool), background=True)
    means = scores.mean((2, 3))
    assert chosen == [[k for k in range(8) if row[k + 1] >= 0.02] for row in means.tolist()]
    assert background == (means[:, 0] > 0.5).tolist()
    assert 6 < sum(map(len, chosen)) < 48  # some blobs are chosen, some are not
