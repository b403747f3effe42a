"""Segments and their blobs, on masks of known ellipses and on rendered scenes."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from blobex.config.training import Group
from blobex.layout.assign import FILLED, assign_segments, fit_anchors
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.layout.segments import GROUPS, Segment, extract_segments, segment_from_mask, segment_masks
from blobex.layout.splat import Canvas, splat
from blobex.scenes.labels import DRIVABLE, SEMANTIC
from blobex.scenes.render import render
from blobex.scenes.sample import sample
from blobex.scenes.scene import LANE_WIDTH

AREA = 0.004


def ellipse(height, width, x, y, long, short, angle):
    """Pixels that lie in an ellipse, pixel i at i/height; lengths in image heights."""
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
    segment = segment_from_mask("lane", mask)
    assert (segment.x, segment.y) == pytest.approx((1.1, 0.45), abs=0.01)
    assert segment.area == pytest.approx(math.pi * 0.3 * 0.12, rel=0.03)
    ellipses = assigned([[segment]], {"lane": 1}, 2)
    assert ellipses.present.all() and ellipses.sizes.item() == pytest.approx(0.3 * 0.12 / AREA + FILLED, rel=0.03)
    nothing = torch.zeros(1, 2, 0)
    sizes = torch.nn.functional.pad(ellipses.sizes - FILLED, (1, 0))  # half opaque where the mask ends
    layout = BlobLayout(ellipses.xs, ellipses.ys, ellipses.covs, sizes, nothing, nothing)
    covered = splat(layout, height, width, AREA)[0, 1].numpy() >= 0.5
    assert (covered & mask).sum() / (covered | mask).sum() > 0.93


@pytest.mark.parametrize("middle", [0.0, 0.8, math.pi / 2, 2.6])
def test_mean_ellipse_ignores_the_sign_of_the_axes(middle):
    angles = (middle - 0.3, middle + 0.3)
    images = [[segment_from_mask("lane", ellipse(64, 128, 1.0, 0.5, 0.3, 0.1, angle))] for angle in angles]
    ux, uy = fit_anchors(images, {"lane": 1}, Canvas(64, 2, area=AREA)).mean_ellipses[0, 3:5].tolist()
    assert abs(ux * math.cos(middle) + uy * math.sin(middle)) == pytest.approx(1, abs=1e-3)


def test_a_scene_is_cut_along_its_labels():
    """Every pixel belongs to one segment of its category, except the sky and small patches."""
    for seed in range(20):
        drawn = render(sample(seed))
        segments = extract_segments(drawn.semantic, drawn.instance % 256, drawn.drivable)
        area = {
            group: sum(segment.area for segment in segments if segment.group == group) * 64 * 64 for group in GROUPS
        }
        road = drawn.semantic == SEMANTIC.index("road")
        assert area["lane"] == (road & (drawn.drivable == DRIVABLE.index("direct"))).sum()
        assert sum(segment.group == "lane" for segment in segments) == 1
        sides = [segment for segment in segments if segment.group == "side_lane"]
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


def test_blobs_keep_their_meaning_and_the_largest_segments_are_used():
    """If the left or the right car is missing, the other keeps its blob; a small third one is dropped."""
    left = [flat("vehicle", 0.2 + 0.01 * number, 0.5, 0.02) for number in range(6)]
    right = [flat("vehicle", 0.8 - 0.01 * number, 0.5, 0.03) for number in range(6)]
    images = [[left[0], right[0], flat("vehicle", 0.5, 0.5, 0.001)]]
    images += [[right[number], left[number]] for number in range(1, 4)] + [[left[4]], [right[5]], []]
    slots = {"lane": 1, "vehicle": 2}
    ellipses = assigned(images, slots, 1)
    assert not ellipses.present[:, 0].any() and (ellipses.sizes[:, 0] == ABSENT).all()
    expected = [[True, True]] * 4 + [[True, False], [False, True], [False, False]]
    assert ellipses.present[:, 1:].tolist() == expected
    torch.testing.assert_close(ellipses.xs[:5, 1], torch.tensor([0.2, 0.21, 0.22, 0.23, 0.24]))
    torch.testing.assert_close(ellipses.xs[5, 1], ellipses.xs[:5, 1].mean())  # an absent blob is at its mean ellipse
    assert (ellipses.sizes[6] == ABSENT).all()
    canvas = Canvas(64, 1, area=AREA)
    alone = assign_segments(images[5:6], slots, fit_anchors(images, slots, canvas), canvas)
    assert alone.present.tolist() == [[False, False, True]]  # the anchors come from the other images


def test_parameters_name_the_same_groups():
    assert sorted(get_args(Group)) == sorted(GROUPS)


def test_a_car_ahead_is_where_the_scene_has_it():
    """The segment of a thing in the ego lane is over the middle of the lane."""
    checked = 0
    for seed in range(60):
        scene = sample(seed)
        ahead = [n for n, thing in enumerate(scene.things) if thing.place == "ego" and thing.kind in ("car", "bus")]
        if not ahead or scene.things[ahead[0]].distance > 12:
            continue
        drawn = render(scene)
        mask = drawn.instance == ahead[0] + 1
        segment = segment_from_mask("vehicle", mask)
        segments = extract_segments(drawn.semantic, np.where(mask, 1, 0), drawn.drivable)
        lane = next(other for other in segments if other.group == "lane")
        assert abs(segment.x - lane.x) < LANE_WIDTH / scene.things[ahead[0]].distance / 2
        checked += 1
    assert checked >= 3


def boxes_of(*boxes):
    """Semantic and thing maps of boxes: name, rows and columns of each."""
    semantic, things = np.full((64, 64), SEMANTIC.index("sky")), np.zeros((64, 64), dtype=int)
    for number, (name, rows, columns) in enumerate(boxes, start=1):
        semantic[rows, columns], things[rows, columns] = SEMANTIC.index(name), number
    return semantic, things


RIDER = ("rider", slice(20, 30), slice(30, 34))


@pytest.mark.parametrize(
    ("others", "joined"),
    [
        ([("bicycle", slice(30, 36), slice(26, 40))], 0),
        ([("motorcycle", slice(31, 38), slice(26, 40))], 0),  # one pixel lies between them
        ([("bicycle", slice(32, 40), slice(26, 40))], None),
        ([("car", slice(30, 36), slice(26, 40))], None),
        ([("car", slice(30, 36), slice(20, 34)), ("bicycle", slice(18, 28), slice(34, 38))], 1),
        ([("bicycle", slice(30, 36), slice(20, 31)), ("bicycle", slice(22, 30), slice(34, 40))], 1),  # touched most
        ([], None),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_rider_is_part_of_the_two_wheeler_that_it_touches(others, joined, first):
    boxes = [RIDER, *others] if first else [*others, RIDER]
    semantic, things = boxes_of(*boxes)
    masks = segment_masks(semantic, things, np.full_like(things, 2))
    expected = [things == number for number, box in enumerate(boxes, start=1) if box is not RIDER or joined is None]
    if joined is not None:
        expected[joined] = expected[joined] | (things == boxes.index(RIDER) + 1)
    assert [group for group, _ in masks] == ["vehicle"] * len(expected)
    assert all(np.array_equal(mask, wanted) for (_, mask), wanted in zip(masks, expected, strict=True))


def test_a_person_beside_a_bicycle_stays_alone():
    semantic, things = boxes_of(("bicycle", slice(30, 36), slice(26, 40)), ("person", *RIDER[1:]))
    assert [group for group, _ in segment_masks(semantic, things, np.full_like(things, 2))] == ["vehicle", "person"]
