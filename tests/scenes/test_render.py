"""Rendering of scenes: images and labels."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from worlds.plain_scene import car, plain_scene

from blobex.core.errors import BlobexError
from blobex.scenes.canvas import CAMERA_HEIGHT
from blobex.scenes.labels import DETECTION, PANOPTIC, SEMANTIC
from blobex.scenes.render import cause_mask, render
from blobex.scenes.rules import causes
from blobex.scenes.sample import sample
from blobex.scenes.scene import LANE_WIDTH

SEEDS = range(150)


def square(array: np.ndarray) -> np.ndarray:
    height = array.shape[0]
    return array[:, height // 2 : height // 2 + height]


def test_rendering_is_deterministic():
    np.random.seed(3)
    first = [render(sample(seed), 32) for seed in (5, 6)]
    second = [render(sample(seed), 32) for seed in (6, 5)][::-1]
    for one, two in zip(first, second, strict=True):
        for name in ("image", "semantic", "instance", "panoptic", "drivable"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        assert one.boxes == two.boxes
    assert first[0].image.tobytes() != first[1].image.tobytes()


@pytest.mark.parametrize("height", [16, 32, 64, 130, 256])
def test_sizes_and_types(height):
    rendering = render(sample(2), height)
    assert rendering.image.shape == (height, 2 * height, 3) and rendering.image.dtype == np.uint8
    for name, kind, numbers in (
        ("semantic", np.uint8, {*range(len(SEMANTIC)), 255}),
        ("panoptic", np.uint8, set(range(len(PANOPTIC)))),
        ("drivable", np.uint8, {0, 1, 2}),
        ("instance", np.uint16, set(range(300))),
    ):
        array = getattr(rendering, name)
        assert array.shape == (height, 2 * height) and array.dtype == kind
        assert set(np.unique(array).tolist()) <= numbers


@pytest.mark.parametrize("height", [15, 33, 8, 2048])
def test_invalid_heights(height):
    with pytest.raises(BlobexError, match="even number"):
        render(sample(0), height)


def test_antialiased_images_of_two_sizes_agree():
    for seed in range(5):
        small, large = render(sample(seed), 64).image, render(sample(seed), 256).image
        reduced = np.asarray(Image.fromarray(large).reduce(4))
        difference = np.abs(small.astype(int) - reduced.astype(int)).mean()
        aliased = np.abs(large[::4, ::4].astype(int) - reduced.astype(int)).mean()
        assert difference < 0.6 * aliased


def test_drivable_area_follows_the_pinhole_camera():
    height = 256
    rendering = render(plain_scene(line_right="edge"), height)
    for row in (200, 255):
        # A point on the ground at X = x, `down` below the horizon, is x * down / camera height from the middle.
        half = LANE_WIDTH / 2 * ((row + 0.5) / height - 0.4) / CAMERA_HEIGHT * height
        direct, alternative = np.flatnonzero(rendering.drivable[row] == 0), np.flatnonzero(rendering.drivable[row] == 1)
        assert abs(direct[0] - (height - half)) <= 1.5 and abs(direct[-1] + 1 - (height + half)) <= 1.5
        assert abs(alternative[0] - max(0, height - 3 * half)) <= 1.5 and alternative[-1] == direct[0] - 1


def test_boxes_follow_the_pinhole_camera():
    (box,) = render(plain_scene(things=(car(kind="truck", distance=10.0),)), 256).boxes
    scale = 256 / 10
    assert box.category == "truck" and not box.occluded and not box.truncated
    assert (box.x1, box.x2) == pytest.approx((256 - 1.2 * scale, 256 + 1.2 * scale), abs=1.5)
    bottom = 0.4 * 256 + CAMERA_HEIGHT * scale
    assert (box.y1, box.y2) == pytest.approx((bottom - 3.3 * scale, bottom), abs=1.5)


def test_boxes_are_the_extents_of_their_instances():
    categories = set()
    for seed in SEEDS:
        rendering = render(sample(seed), 64)
        for box in rendering.boxes:
            rows, columns = np.nonzero(rendering.instance == box.instance)
            edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (box.x1, box.y1, box.x2, box.y2) == edges
            name = "person" if box.category == "pedestrian" else box.category
            assert {SEMANTIC[label] for label in rendering.semantic[rows, columns]} == {name}
            assert {PANOPTIC[label] for label in rendering.panoptic[rows, columns]} == {name}
            categories.add(box.category)
        boxed = {box.instance for box in rendering.boxes}
        assert set(np.unique(rendering.instance[rendering.semantic != SEMANTIC.index("fence")]).tolist()) == boxed | {0}
    assert categories == set(DETECTION) - {"train"}


def test_occlusion_and_truncation():
    both = render(plain_scene(things=(car(distance=7.0), car(kind="bus", distance=25.0))), 64)
    assert {box.category: box.occluded for box in both.boxes} == {"car": False, "bus": True}
    (alone,) = render(plain_scene(things=(car(kind="bus", distance=25.0),)), 64).boxes
    assert not alone.occluded
    (beyond,) = render(plain_scene(things=(car(place="left", distance=3.2),)), 64).boxes
    assert beyond.truncated and beyond.x1 == 0
    hidden = render(plain_scene(things=(car(kind="bus", distance=7.0), car(distance=42.0))), 64)
    assert [box.category for box in hidden.boxes] == ["bus"]


@pytest.mark.parametrize(("light", "channel"), [("red", 0), ("green", 1)])
def test_only_the_lit_lamp_is_bright(light, channel):
    for time in ("day", "night"):
        rendering = render(plain_scene(light=light, time=time), 64)
        (box,) = (box for box in rendering.boxes if box.category == "traffic light")
        assert box.light == light
        pixels = rendering.image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)].astype(int)
        other = pixels[:, :, 1 - channel]
        bright = (pixels[:, :, channel] > 190) & (other < 120)
        assert bright.sum() >= 4
        half = pixels.shape[0] // 2
        assert not (bright[half:] if light == "red" else bright[:half]).any()


def test_lamps_differ_in_the_square():
    for seed in range(40):
        red, green = (render(replace(sample(seed), light=light), 64).image.astype(int) for light in ("red", "green"))
        assert (np.abs(square(red - green)).max(axis=2) > 60).sum() >= 8


def test_every_cause_is_visible_in_the_square():
    elements = set()
    for seed in SEEDS:
        scene = sample(seed)
        for action in ("stop", "left", "right"):
            for cause in causes(scene, action):
                assert square(cause_mask(scene, cause)).sum() >= 15, (seed, cause)
                elements.add(cause.element)
    assert elements == {"light", "sign", "thing", "line_left", "line_right", "lane_left", "lane_right"}


def test_edit_changes_only_the_pixels_of_its_thing():
    scene = plain_scene(things=(car(), car("left", 10.0)))
    before, after = render(scene, 64), render(replace(scene, things=scene.things[:1]), 64)
    rows, columns = np.nonzero((before.image != after.image).any(axis=2))
    (box,) = (box for box in before.boxes if box.instance == 2)
    assert columns.min() >= box.x1 - 4 and columns.max() <= box.x2 + 4  # its shadow is wider
    assert rows.min() >= box.y1 - 1 and rows.max() <= box.y2 + 2
