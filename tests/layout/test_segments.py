"""Label maps to segments to blobs, on masks whose ellipses are known and on rendered scenes."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from blobex.config.training import Group
from blobex.layout.assign import FILLED, assign_segments, fit_anchors
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.layout.segments import GROUPS, Segment, extract_segments, segment_from_mask
from blobex.layout.splat import Canvas, splat
from blobex.scenes.labels import DRIVABLE, SEMANTIC
from blobex.scenes.render import render
from blobex.scenes.sample import sample
from blobex.scenes.scene import LANE_WIDTH

AREA = 0.004


def ellipse(height, width, x, y, long, short, angle):
    """Pixels that lie in an ellipse, pixel i at i/height; lengths in picture heights."""
    rows, columns = np.mgrid[:height, :width]
    dx, dy = columns / height - x, rows / height - y
    along, across = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def assigned(images, slots, aspect_ratio):
    canvas = Canvas(64, aspect_ratio, area=AREA)
    return assign_segments(images, slots, fit_anchors(images, slots, canvas), canvas)


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2, 2.6])
def test_an_elliptic_mask_becomes_the_blob_that_covers_it(angle):
    height, width = 64, 128
    mask = ellipse(height, width, 1.1, 0.45, 0.3, 0.12, angle)
    found = segment_from_mask("lane", mask)
    assert (found.x, found.y) == pytest.approx((1.1, 0.45), abs=0.01)
    assert found.area == pytest.approx(math.pi * 0.3 * 0.12, rel=0.03)
    places = assigned([[found]], {"lane": 1}, 2)
    assert places.present.all() and places.sizes.item() == pytest.approx(0.3 * 0.12 / AREA + FILLED, rel=0.03)
    nothing = torch.zeros(1, 2, 0)
    sizes = torch.nn.functional.pad(places.sizes - FILLED, (1, 0))  # half opaque where the mask ends
    layout = BlobLayout(places.xs, places.ys, places.covs, sizes, nothing, nothing)
    covered = splat(layout, height, width, AREA)[0, 1].numpy() >= 0.5
    assert (covered & mask).sum() / (covered | mask).sum() > 0.93


@pytest.mark.parametrize("middle", [0.0, 0.8, math.pi / 2, 2.6])
def test_the_usual_ellipse_lies_between_ellipses_whatever_the_sign_of_their_axes(middle):
    angles = (middle - 0.3, middle + 0.3)
    pictures = [[segment_from_mask("lane", ellipse(64, 128, 1.0, 0.5, 0.3, 0.1, angle))] for angle in angles]
    ux, uy = fit_anchors(pictures, {"lane": 1}, Canvas(64, 2, area=AREA)).mean_ellipses[0, 3:5].tolist()
    assert abs(ux * math.cos(middle) + uy * math.sin(middle)) == pytest.approx(1, abs=1e-3)


def test_a_scene_is_cut_along_its_labels():
    """Every pixel but the sky's and those of patches too small belongs to one segment of its category."""
    for seed in range(20):
        drawn = render(sample(seed))
        found = extract_segments(drawn.semantic, drawn.instance % 256, drawn.drivable)
        area = {group: sum(each.area for each in found if each.group == group) * 64 * 64 for group in GROUPS}
        road = drawn.semantic == SEMANTIC.index("road")
        assert area["lane"] == (road & (drawn.drivable == DRIVABLE.index("direct"))).sum()
        assert sum(each.group == "lane" for each in found) == 1
        sides = [each for each in found if each.group == "side_lane"]
        assert len(sides) <= 2
        for group, names in (("building", ["building"]), ("person", ["person"]), ("vehicle", ["car", "truck", "bus"])):
            pixels = np.isin(drawn.semantic, [SEMANTIC.index(name) for name in names]).sum()
            assert area[group] >= 0.8 * pixels - 40


def test_halves_lie_on_both_sides():
    semantic = np.full((64, 64), SEMANTIC.index("sky"), dtype=np.uint8)
    semantic[20:30, 4:60] = SEMANTIC.index("building")
    blank = np.zeros_like(semantic)
    left, right = extract_segments(semantic, blank, blank + 2)
    assert left.group == right.group == "building"
    assert left.x == pytest.approx((4 + 31) / 2 / 64) and right.x == pytest.approx((32 + 59) / 2 / 64)


def flat(group, x, y, area):
    return Segment(group, x, y, area / 12, area / 12, 0.0, area)


def test_blobs_keep_their_meaning_and_the_largest_are_kept():
    """Of cars left and right, whichever is missing, the other keeps its blob; a third, small, one is dropped."""
    left = [flat("vehicle", 0.2 + 0.01 * number, 0.5, 0.02) for number in range(6)]
    right = [flat("vehicle", 0.8 - 0.01 * number, 0.5, 0.03) for number in range(6)]
    pictures = [[left[0], right[0], flat("vehicle", 0.5, 0.5, 0.001)]]
    pictures += [[right[number], left[number]] for number in range(1, 4)] + [[left[4]], [right[5]], []]
    slots = {"lane": 1, "vehicle": 2}
    places = assigned(pictures, slots, 1)
    assert not places.present[:, 0].any() and (places.sizes[:, 0] == ABSENT).all()
    there = [[True, True]] * 4 + [[True, False], [False, True], [False, False]]
    assert places.present[:, 1:].tolist() == there
    torch.testing.assert_close(places.xs[:5, 1], torch.tensor([0.2, 0.21, 0.22, 0.23, 0.24]))
    torch.testing.assert_close(places.xs[5, 1], places.xs[:5, 1].mean())  # absent, it waits at its usual place
    assert (places.sizes[6] == ABSENT).all()
    canvas = Canvas(64, 1, area=AREA)
    alone = assign_segments(pictures[5:6], slots, fit_anchors(pictures, slots, canvas), canvas)
    assert alone.present.tolist() == [[False, False, True]]  # the anchors are what is known of other pictures


def test_parameters_know_the_groups_that_there_are():
    assert sorted(get_args(Group)) == sorted(GROUPS)


def test_a_car_ahead_is_where_the_scene_has_it():
    """The segment of a thing in the ego lane lies over the lane's middle."""
    checked = 0
    for seed in range(60):
        scene = sample(seed)
        ahead = [n for n, thing in enumerate(scene.things) if thing.place == "ego" and thing.kind in ("car", "bus")]
        if not ahead or scene.things[ahead[0]].distance > 12:
            continue
        drawn = render(scene)
        mask = drawn.instance == ahead[0] + 1
        found = segment_from_mask("vehicle", mask)
        every = extract_segments(drawn.semantic, np.where(mask, 1, 0), drawn.drivable)
        lane = next(each for each in every if each.group == "lane")
        assert abs(found.x - lane.x) < LANE_WIDTH / scene.things[ahead[0]].distance / 2
        checked += 1
    assert checked >= 3
