"""Readings of pictures against the scenes that they were drawn from."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from seen_scenes import reading_of, true_detections

from blobex.errors import BlobexError
from blobex.metrics.colours import colour_name, hues, light_colour
from blobex.metrics.ground import Ground, fit_ground
from blobex.metrics.objects import read, read_labels
from blobex.metrics.reading import overlap
from blobex.metrics.rule import decide_by_rule
from blobex.networks.parser import STRIDE, Parser, ParserOutput
from blobex.scenes.canvas import CAMERA_HEIGHT
from blobex.scenes.labels import DETECTION, DRIVABLE, SEMANTIC
from blobex.scenes.render import Rendering, render
from blobex.scenes.rules import NEAR, RULES, actions
from blobex.scenes.sample import sample

SCENES = [sample(seed) for seed in range(9_000_000, 9_000_080)]


@pytest.fixture(scope="module")
def readings():
    return [reading_of(scene) for scene in SCENES]


def test_lines_light_and_sign_are_those_of_the_scene(readings) -> None:
    read = [(each.line_left, each.line_right, each.light, each.stop_sign) for each in readings]
    true = [(scene.line_left, scene.line_right, scene.light, scene.stop_sign) for scene in SCENES]
    assert read == true
    assert len(set(true)) > 20


def test_objects_stand_where_the_scene_has_them(readings) -> None:
    checked = 0
    for scene, reading in zip(SCENES, readings, strict=True):
        for thing in scene.things:
            if thing.place != "ego" or thing.distance > NEAR:
                continue
            kind = {"barrier": "fence"}.get(thing.kind, thing.kind)
            (seen,) = [each for each in reading.objects if each.place == "ahead" and each.near]
            assert seen.category == kind
            assert seen.distance == pytest.approx(thing.distance, rel=0.08)
            assert seen.lateral == pytest.approx(scene.lateral(thing), abs=0.3)
            checked += 1
    assert checked > 15


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_rules_of_the_reading_are_the_rules_of_the_scene(readings, rule) -> None:
    pictures = [render(scene, 64).image for scene in SCENES]
    read = [decide_by_rule(*pair, rule) for pair in zip(readings, pictures, strict=True)]
    assert read == [rule.actions(scene) for scene in SCENES]
    assert rule.name == "plain" or read != [actions(scene) for scene in SCENES]


def test_the_square_crop_says_the_same() -> None:
    inside = slice(32, 96)
    for scene in SCENES:
        picture = render(scene, 64)
        found = true_detections(picture)
        boxes = found.boxes - torch.tensor([32.0, 0, 32, 0])
        boxes[:, ::2] = boxes[:, ::2].clamp(0, 64)
        shown = boxes[:, 2] > boxes[:, 0]
        found = type(found)(boxes[shown], found.scores[shown], found.categories[shown])
        maps = (each[:, inside] for each in (picture.semantic, picture.drivable, picture.image))
        semantic, drivable, image = maps
        said = decide_by_rule(read_labels(found, semantic, drivable, image), image, RULES["night"])
        assert said == RULES["night"].actions(scene)


def test_ground_is_that_of_the_camera() -> None:
    errors = []
    for scene in SCENES:
        ground = fit_ground(render(scene, 64).drivable)
        view = scene.view
        errors.append((ground.horizon - view.horizon, ground.vanishing - view.vanishing))
    assert np.abs(errors).mean(0).max() < 0.006  # a third of a pixel
    x, y, z = 1.2, CAMERA_HEIGHT / 8.0, 8.0  # a point on the road, 8 metres ahead
    ground = Ground(horizon=0.4, vanishing=0.02, skew=-0.1 / CAMERA_HEIGHT)  # the camera is 0.1 m right of the middle
    assert ground.distance(0.4 + y) == pytest.approx(z)
    assert ground.lateral(0.02 + (x - 0.1) / z, 0.4 + y) == pytest.approx(x)
    assert ground.distance(0.3) == math.inf
    assert fit_ground(np.full((16, 32), 2)) == Ground()


def output_of(pictures: list[Rendering]) -> ParserOutput:
    """What a parser without fault would put out."""
    semantic, drivable = (
        torch.stack([torch.nn.functional.one_hot(torch.from_numpy(maps(one)).long(), size) for one in pictures])
        .permute(0, 3, 1, 2)
        .float()
        for maps, size in ((lambda one: one.semantic, len(SEMANTIC)), (lambda one: one.drivable, len(DRIVABLE)))
    )
    count, height, width = len(pictures), *pictures[0].semantic.shape
    cells = (count, height // STRIDE, width // STRIDE)
    heat = torch.full((count, len(DETECTION), *cells[1:]), -9.0)
    offset, size = torch.zeros(count, 2, *cells[1:]), torch.zeros(count, 2, *cells[1:])
    for number, picture in enumerate(pictures):
        for box in picture.boxes:
            x, y = (box.x1 + box.x2) / 2 / STRIDE, (box.y1 + box.y2) / 2 / STRIDE
            column, row = int(x), int(y)
            heat[number, DETECTION.index(box.category), row, column] = 9.0
            offset[number, :, row, column] = torch.tensor([x - column, y - row])
            size[number, :, row, column] = torch.tensor([box.x2 - box.x1, box.y2 - box.y1]).log()
    nothing = torch.zeros(count, 1, height, width)
    return ParserOutput(heat, offset, size, semantic, nothing, nothing.repeat(1, 2, 1, 1), drivable)


def test_a_faultless_parser_reads_as_the_labels_do(readings) -> None:
    pictures = [render(scene, 64) for scene in SCENES[:12]]
    images = np.stack([picture.image for picture in pictures])
    seen = read(output_of(pictures), images)
    again = read(output_of(pictures), torch.from_numpy(images).permute(0, 3, 1, 2))
    for one, other, true, image in zip(seen, again, readings, images, strict=False):
        assert one == other
        assert decide_by_rule(one, image) == decide_by_rule(true, image)
        assert (one.light, one.areas, one.direct) == (true.light, true.areas, true.direct)
    (single,) = read(output_of(pictures[3:4]), images[3:4])
    assert single == seen[3]


def test_areas_are_shares_of_pixels() -> None:
    picture = render(SCENES[0], 64)
    reading = reading_of(SCENES[0])
    known = picture.semantic != 255
    assert sum(reading.areas.values()) == pytest.approx(known.mean())
    assert reading.areas["sky"] == (picture.semantic == SEMANTIC.index("sky")).mean()
    assert reading.alternative == (picture.drivable == DRIVABLE.index("alternative")).mean()


def test_what_hides_the_lane_is_an_obstacle_even_if_no_category_fits() -> None:
    scene = next(each for each in SCENES if any(t.kind == "barrier" for t in each.things))
    picture = render(scene, 64)
    nameless = np.where(picture.semantic == SEMANTIC.index("fence"), SEMANTIC.index("road"), picture.semantic)
    reading = read_labels(true_detections(picture), nameless, picture.drivable, picture.image)
    assert "obstacle" in [each.category for each in reading.objects if each.place == "ahead" and each.near]
    assert decide_by_rule(reading, picture.image) == actions(scene)
    clear = dataclasses.replace(scene, things=())
    assert not reading_of(clear).objects or all(not each.near for each in reading_of(clear).objects)


def test_a_reading_goes_into_json(readings) -> None:
    for each in readings:
        assert json.loads(json.dumps(each.as_dict(), allow_nan=False))["light"] == each.light


def test_untrained_parsers_and_wrong_pictures() -> None:
    torch.manual_seed(0)
    output = Parser([4, 6], 16, 32).eval()(torch.rand(2, 3, 16, 32))
    assert len(read(output, np.zeros((2, 16, 32, 3), np.uint8))) == 2
    with pytest.raises(BlobexError, match="pictures that it saw"):
        read(output, np.zeros((1, 16, 32, 3), np.uint8))
    with pytest.raises(BlobexError, match="give uint8"):
        read(output, np.zeros((2, 16, 32, 3)))


def test_hues_are_those_of_pil() -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("HSV")).astype(float)
    hue, saturation, value = hues(pixels)
    apart = np.abs(hue / 360 * 255 - expected[..., 0])
    assert np.minimum(apart, 255 - apart).max() < 1.5
    np.testing.assert_allclose(saturation * 255, expected[..., 1], atol=1)
    np.testing.assert_allclose(value * 255, expected[..., 2], atol=1)


def test_colours_have_their_names() -> None:
    names = [colour_name(c) for c in ((205, 32, 36), (28, 70, 165), (240, 240, 240), (32, 34, 40), (150, 155, 162))]
    assert names == ["red", "blue", "white", "black", "grey"]
    lamps = {"red": (255, 36, 28), "green": (40, 255, 130), "yellow": (255, 210, 40), "none": (56, 54, 52)}
    for name, lamp in lamps.items():
        box = np.full((12, 6, 3), (22, 24, 28), np.uint8)
        box[:, 0] = (196, 160, 40)  # the housing is yellow, too
        box[4:6, 2:4] = lamp
        assert light_colour(box) == name
    assert light_colour(np.zeros((0, 3, 3), np.uint8)) == "none"


def test_overlap_is_torchvisions() -> None:
    from torchvision.ops import box_iou

    boxes = torch.rand(8, 4, generator=torch.Generator().manual_seed(0)) * 10
    boxes[:, 2:] += boxes[:, :2] + 1
    ours = [[overlap(tuple(a), tuple(b)) for b in boxes.tolist()] for a in boxes.tolist()]
    torch.testing.assert_close(torch.tensor(ours), box_iou(boxes, boxes))
