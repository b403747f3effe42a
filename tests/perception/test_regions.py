"""Regions from coordinates and mask images, against matplotlib's polygons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.perception.regions import parse_region, region_mask

HEIGHT, WIDTH = 32, 64


def test_box_holds_the_pixels_between_its_edges() -> None:
    inside = parse_region("0.25,0.5,0.75,1", 4, 8)
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[2:, 2:6] = True
    assert torch.equal(inside, expected)
    assert parse_region("0,0,1,1", 3, 5).all()


def test_polygons_equal_matplotlib() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = np.stack([(x.ravel() + 0.5) / WIDTH, (y.ravel() + 0.5) / HEIGHT], axis=1)
    for corners in (3, 4, 7):
        for _ in range(5):
            angles = np.sort(random.uniform(0, 2 * np.pi, corners))
            radius = random.uniform(0.2, 0.5, corners)
            points = 0.5 + np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
            inside = parse_region(" ".join(f"{x!r},{y!r}" for x, y in points.tolist()), HEIGHT, WIDTH)
            expected = Outline([*points, points[0]], closed=True).contains_points(centres).reshape(HEIGHT, WIDTH)
            assert np.array_equal(inside.numpy(), expected)


def test_box_equals_polygon_of_four_corners() -> None:
    box = parse_region("0.1,0.2,0.6,0.9", HEIGHT, WIDTH)
    assert torch.equal(box, parse_region("0.1,0.2 0.6,0.2 0.6,0.9 0.1,0.9", HEIGHT, WIDTH))


def test_mask_is_cropped_like_its_photo(tmp_path: Path) -> None:
    mask = np.zeros((60, 60), np.uint8)  # the crop keeps rows 15 to 44
    mask[:30, :30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    inside = parse_region(str(tmp_path / "mask.png"), HEIGHT, WIDTH)
    assert torch.equal(inside, parse_region("0,0,0.5,0.5", HEIGHT, WIDTH))
    Image.fromarray(mask * 0).save(tmp_path / "black.png")
    with pytest.raises(BlobexError, match=r"black\.png has no white"):
        parse_region(str(tmp_path / "black.png"), HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0,1", "give left,top,right,bottom or x,y"),
        ("0,0,1,1 0,0,1,1", "give left,top,right,bottom or x,y"),
        ("0,0 1,1 0,1,2", "give left,top,right,bottom or x,y"),
        ("a,b,c,d", "give left,top,right,bottom or x,y"),
        ("", "give left,top,right,bottom or x,y"),
        ("0,0,1.5,1", "reaches out of the image"),
        ("0,0,nan,1", "reaches out of the image"),
        ("0,-0.1 1,0 1,1", "reaches out of the image"),
        ("0,0 1,1", "fewer than three corners"),
        ("0.6,0,0.4,1", "holds no pixel of 32x64"),
        ("0,0 1,1 0.5,0.5", "holds no pixel of 32x64"),
        ("nowhere.png", "there is no image nowhere.png"),
        (f"{'x' * 300},1,1,1", "give left,top,right,bottom or x,y"),
        (__file__, "is not an image"),
    ],
)
def test_invalid_regions_raise_one_line(text: str, message: str) -> None:
    with pytest.raises(BlobexError, match=message) as error:
        region_mask(text, HEIGHT, WIDTH)
    assert "\n" not in str(error.value)


def test_object_names_need_a_parser() -> None:
    with pytest.raises(BlobexError, match="'car ahead' is a name, which takes a trained parser"):
        region_mask("car ahead", HEIGHT, WIDTH)
