import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.scenes.canvas import CAMERA_HEIGHT
from blobex.scenes.labels import PANOPTIC, SEMANTIC
from blobex.scenes.render import cause_mask, render
from blobex.scenes.rules import ACTIONS, NEAR, REASONS, actions, causes, reasons
from blobex.scenes.sample import sample
from blobex.scenes.scene import LANE_WIDTH, Scene, Thing, View

SEEDS = range(150)


def empty(**changes) -> Scene:
    plain = replace(
        sample(1),
        things=(),
        light="none",
        stop_sign=False,
        line_left="dashed",
        line_right="dashed",
        time="day",
        weather="clear",
        view=View(horizon=0.4, vanishing=0.0, offset=0.0),
        buildings=(),
        trees=(),
    )
    return replace(plain, **changes)


def car(place="ego", distance=8.0, kind="car") -> Thing:
    return Thing(kind, place, distance, (200, 30, 30))


def square(array: np.ndarray) -> np.ndarray:
    height = array.shape[0]
    return array[:, height // 2 : height // 2 + height]


def test_same_seed_gives_the_same_bytes_whatever_came_before():
    np.random.seed(3)
    first = [render(sample(seed), 32) for seed in (5, 6)]
    second = [render(sample(seed), 32) for seed in (6, 5)][::-1]
    for one, two in zip(first, second, strict=True):
        for name in ("image", "semantic", "instance", "panoptic", "drivable"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        assert one.boxes == two.boxes
    assert first[0].image.tobytes() != first[1].image.tobytes()


def test_scenes_load_neither_torch_nor_scipy():
    code = "import sys, blobex.scenes, blobex.scenes.write; print({'torch', 'scipy', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


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
def test_impossible_heights_are_refused(height):
    with pytest.raises(BlobexError, match="even number"):
        render(sample(0), height)


def test_antialiased_pictures_of_two_sizes_agree():
    for seed in range(5):
        small, large = render(sample(seed), 64).image, render(sample(seed), 256).image
        reduced = np.asarray(Image.fromarray(large).reduce(4))
        difference = np.abs(small.astype(int) - reduced.astype(int)).mean()
        aliased = np.abs(large[::4, ::4].astype(int) - reduced.astype(int)).mean()
        assert difference < 0.6 * aliased


def test_drivable_area_follows_the_pinhole_camera():
    height = 256
    rendering = render(empty(line_right="edge"), height)
    for row in (200, 255):
        # A ground point x metres aside, seen `down` below the horizon, is x * down / camera height aside.
        half = LANE_WIDTH / 2 * ((row + 0.5) / height - 0.4) / CAMERA_HEIGHT * height
        direct, alternative = np.flatnonzero(rendering.drivable[row] == 0), np.flatnonzero(rendering.drivable[row] == 1)
        assert abs(direct[0] - (height - half)) <= 1.5 and abs(direct[-1] + 1 - (height + half)) <= 1.5
        assert abs(alternative[0] - max(0, height - 3 * half)) <= 1.5 and alternative[-1] == direct[0] - 1


def test_boxes_follow_the_pinhole_camera():
    (box,) = render(empty(things=(car(kind="truck", distance=10.0),)), 256).boxes
    scale = 256 / 10
    assert box.category == "truck" and not box.occluded and not box.truncated
    assert (box.x1, box.x2) == pytest.approx((256 - 1.2 * scale, 256 + 1.2 * scale), abs=1.5)
    bottom = 0.4 * 256 + CAMERA_HEIGHT * scale
    assert (box.y1, box.y2) == pytest.approx((bottom - 3.3 * scale, bottom), abs=1.5)


def test_boxes_are_the_extents_of_their_instances():
    found = set()
    for seed in SEEDS:
        rendering = render(sample(seed), 64)
        for box in rendering.boxes:
            rows, columns = np.nonzero(rendering.instance == box.instance)
            assert (box.x1, box.y1, box.x2, box.y2) == (
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            )
            name = "person" if box.category == "pedestrian" else box.category
            assert {SEMANTIC[label] for label in rendering.semantic[rows, columns]} == {name}
            assert {PANOPTIC[label] for label in rendering.panoptic[rows, columns]} == {name}
            found.add(box.category)
        boxed = {box.instance for box in rendering.boxes}
        assert set(np.unique(rendering.instance[rendering.semantic != SEMANTIC.index("fence")]).tolist()) == boxed | {0}
    assert found == {
        "pedestrian",
        "rider",
        "car",
        "truck",
        "bus",
        "motorcycle",
        "bicycle",
        "traffic light",
        "traffic sign",
    }


def test_occlusion_and_truncation():
    both = render(empty(things=(car(distance=7.0), car(kind="bus", distance=25.0))), 64)
    assert {box.category: box.occluded for box in both.boxes} == {"car": False, "bus": True}
    (alone,) = render(empty(things=(car(kind="bus", distance=25.0),)), 64).boxes
    assert not alone.occluded
    (beyond,) = render(empty(things=(car(place="left", distance=3.2),)), 64).boxes
    assert beyond.truncated and beyond.x1 == 0
    hidden = render(empty(things=(car(kind="bus", distance=7.0), car(distance=42.0))), 64)
    assert [box.category for box in hidden.boxes] == ["bus"]


@pytest.mark.parametrize(("light", "channel"), [("red", 0), ("green", 1)])
def test_only_the_lamp_that_is_on_shines(light, channel):
    for time in ("day", "night"):
        rendering = render(empty(light=light, time=time), 64)
        (box,) = (box for box in rendering.boxes if box.category == "traffic light")
        assert box.light == light
        pixels = rendering.image[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)].astype(int)
        other = pixels[:, :, 1 - channel]
        bright = (pixels[:, :, channel] > 190) & (other < 120)
        assert bright.sum() >= 4
        half = pixels.shape[0] // 2
        assert not (bright[half:] if light == "red" else bright[:half]).any()


def test_one_lamp_can_be_told_from_the_other_in_the_square():
    for seed in range(40):
        red, green = (render(replace(sample(seed), light=light), 64).image.astype(int) for light in ("red", "green"))
        assert (np.abs(square(red - green)).max(axis=2) > 60).sum() >= 8


def test_every_cause_shows_in_the_centre_square():
    counted = set()
    for seed in SEEDS:
        scene = sample(seed)
        for action in ("stop", "left", "right"):
            for cause in causes(scene, action):
                assert square(cause_mask(scene, cause)).sum() >= 15, (seed, cause)
                counted.add(cause.element)
    assert counted == {"light", "sign", "thing", "line_left", "line_right", "lane_left", "lane_right"}


def test_near_and_far_are_never_a_close_call():
    for seed in range(600):
        distances = [thing.distance for thing in sample(seed).things if thing.place in ("left", "ego", "right")]
        assert all(distance < NEAR - 3 or distance > NEAR + 4 for distance in distances)


def test_labels_are_balanced_and_all_expressible_reasons_occur():
    scenes = [sample(seed) for seed in range(1500)]
    rates = np.array([actions(scene) for scene in scenes]).mean(axis=0)
    assert all(0.25 < rate < 0.75 for rate in rates), dict(zip(ACTIONS, rates, strict=True))
    told = np.array([reasons(scene) for scene in scenes]).mean(axis=0)
    never = {name for name, rate in zip(REASONS, told, strict=True) if rate == 0}
    assert never == {name for name in REASONS if "front car" in name or "turn lane" in name or "-turn" in name}
    assert min(rate for rate in told if rate) > 0.02


def test_an_edit_changes_its_own_place_only():
    scene = empty(things=(car(), car("left", 10.0)))
    before, after = render(scene, 64), render(replace(scene, things=scene.things[:1]), 64)
    rows, columns = np.nonzero((before.image != after.image).any(axis=2))
    (box,) = (box for box in before.boxes if box.instance == 2)
    assert columns.min() >= box.x1 - 4 and columns.max() <= box.x2 + 4  # its shadow is a little wider
    assert rows.min() >= box.y1 - 1 and rows.max() <= box.y2 + 2


def test_lanes_are_counted_from_the_lines():
    assert (empty().lanes, empty().ego_lane) == (3, 1)
    assert (empty(line_left="double_yellow").lanes, empty(line_left="double_yellow").ego_lane) == (2, 0)
    assert (empty(line_left="edge", line_right="edge").lanes, empty(line_left="solid").ego_lane) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"line_right": "double_yellow"}, "oncoming"),
        ({"line_left": "dotted"}, "dotted"),
        ({"line_left": "edge", "things": (car("left"),)}, "left lane"),
        ({"line_right": "edge", "things": (car("right"),)}, "right lane"),
    ],
)
def test_impossible_scenes_are_refused(changes, words):
    with pytest.raises(BlobexError, match=words):
        empty(**changes)
