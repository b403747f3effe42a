"""Regions against matplotlib's polygons and the road scenes, which know their objects; blobs against plain layouts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.path import Path as Outline
from PIL import Image
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import splat
from blobex.networks.parser import STRIDE, ParserOutput
from blobex.perception.regions import object_mask, painting_blobs, parse_region, region_mask
from blobex.scenes.labels import DETECTION, SEMANTIC
from blobex.scenes.render import Box, Rendering, render
from blobex.scenes.rules import NEAR
from blobex.scenes.sample import sample
from blobex.scenes.scene import VEHICLES, Scene
from blobex.training.parser_loss import box_targets, thing_targets

HEIGHT, WIDTH = 32, 64


def test_a_box_is_what_lies_between_its_edges() -> None:
    inside = parse_region("0.25,0.5,0.75,1", 4, 8)
    expected = torch.zeros(4, 8, dtype=torch.bool)
    expected[2:, 2:6] = True
    assert torch.equal(inside, expected)
    assert parse_region("0,0,1,1", 3, 5).all()


def test_polygons_are_those_of_matplotlib() -> None:
    random = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = np.stack([(x.ravel() + 0.5) / WIDTH, (y.ravel() + 0.5) / HEIGHT], axis=1)
    for corners in (3, 4, 7):
        for _ in range(5):
            angles = np.sort(random.uniform(0, 2 * np.pi, corners))
            radius = random.uniform(0.2, 0.5, corners)
            points = 0.5 + np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
            inside = parse_region(" ".join(f"{x!r},{y!r}" for x, y in points.tolist()), HEIGHT, WIDTH)
            theirs = Outline([*points, points[0]], closed=True).contains_points(centres).reshape(HEIGHT, WIDTH)
            assert np.array_equal(inside.numpy(), theirs)


def test_a_box_is_a_polygon_of_four_corners() -> None:
    box = parse_region("0.1,0.2,0.6,0.9", HEIGHT, WIDTH)
    assert torch.equal(box, parse_region("0.1,0.2 0.6,0.2 0.6,0.9 0.1,0.9", HEIGHT, WIDTH))


def test_a_mask_is_cropped_as_its_photo_is(tmp_path: Path) -> None:
    picture = np.zeros((60, 60), np.uint8)  # of which rows 15 to 44 are left
    picture[:30, :30] = 255
    Image.fromarray(picture).save(tmp_path / "mask.png")
    inside = parse_region(str(tmp_path / "mask.png"), HEIGHT, WIDTH)
    assert torch.equal(inside, parse_region("0,0,0.5,0.5", HEIGHT, WIDTH))
    Image.fromarray(picture * 0).save(tmp_path / "black.png")
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
        ("0,0,1.5,1", "reaches out of the picture"),
        ("0,0,nan,1", "reaches out of the picture"),
        ("0,-0.1 1,0 1,1", "reaches out of the picture"),
        ("0,0 1,1", "fewer than three corners"),
        ("0.6,0,0.4,1", "holds no pixel of 32x64"),
        ("0,0 1,1 0.5,0.5", "holds no pixel of 32x64"),
        ("nowhere.png", "there is no picture nowhere.png"),
        (f"{'x' * 300},1,1,1", "give left,top,right,bottom or x,y"),
        (__file__, "is not a picture"),
    ],
)
def test_every_mistake_is_told(text: str, message: str) -> None:
    with pytest.raises(BlobexError, match=message) as error:
        region_mask(text, HEIGHT, WIDTH)
    assert "\n" not in str(error.value)


def knowing(rendering: Rendering) -> ParserOutput:
    """The output of a parser that makes no mistake about a scene."""
    height, width = rendering.semantic.shape
    rows = [[DETECTION.index(box.category), box.x1, box.y1, box.x2, box.y2] for box in rendering.boxes]
    targets = box_targets(torch.tensor([rows]), height, width)
    offset, size = (torch.zeros(1, 2, height // STRIDE, width // STRIDE) for _ in range(2))
    offset[targets.picture, :, targets.row, targets.column] = targets.offset
    size[targets.picture, :, targets.row, targets.column] = targets.size
    semantic = torch.from_numpy(np.where(rendering.semantic == 255, 0, rendering.semantic)).long()[None]
    counted = rendering.semantic >= SEMANTIC.index("person")
    numbers = np.unique(np.where(counted, rendering.instance, 0), return_inverse=True)[1].reshape(height, width)
    heat, shifts = thing_targets(torch.from_numpy(numbers.astype(np.uint8))[None])
    return ParserOutput(
        heat=targets.heat.clamp(1e-4, 1 - 1e-4).logit(),
        offset=offset,
        size=size,
        semantic=20.0 * torch.nn.functional.one_hot(semantic, len(SEMANTIC)).permute(0, 3, 1, 2),
        centres=heat.clamp(1e-4, 1 - 1e-4).logit(),
        shifts=shifts,
        drivable=torch.zeros(1, 3, height, width),
    )


def found(name: str, output: ParserOutput) -> Tensor | None:
    try:
        return object_mask(name, output, 0)
    except BlobexError:
        return None


def same(mask: Tensor | None, truth: np.ndarray) -> bool:
    """Whether they overlap by half of their union."""
    return mask is not None and (mask.numpy() & truth).sum() > 0.5 * (mask.numpy() | truth).sum()


def nearest(scene: Scene, place: str) -> int | None:
    """The number of the nearest vehicle in a lane."""
    there = [n for n, thing in enumerate(scene.things) if thing.place == place and thing.kind in VEHICLES]
    return min(there, key=lambda n: scene.things[n].distance, default=None)


def test_the_vehicle_ahead_is_the_one_in_the_ego_lane_of_the_scene() -> None:
    right, present = 0, 0
    for seed in range(60):
        scene = sample(seed)
        if any(thing.kind in ("motorcycle", "bicycle") for thing in scene.things):
            continue  # vehicles, too, but their pixels are parted from their riders'
        rendering, number = render(scene), nearest(scene, "ego")
        mask = found("nearest vehicle ahead", knowing(rendering))
        present += number is not None
        right += mask is None if number is None else same(mask, rendering.instance == number + 1)
        counted = number is not None and scene.things[number].distance <= NEAR
        assert not counted or same(mask, rendering.instance == number + 1), seed  # those that stop the vehicle
    assert present > 10 and right >= 0.95 * 45


@pytest.fixture(scope="module")
def street() -> tuple[Rendering, ParserOutput]:
    """A day with three cars or more, a traffic light and a pedestrian."""
    for seed in range(200):
        rendering = render(sample(seed))
        kinds = [box.category for box in rendering.boxes if (box.x2 - box.x1) * (box.y2 - box.y1) > 12]
        if kinds.count("car") >= 3 and "traffic light" in kinds and "pedestrian" in kinds:
            return rendering, knowing(rendering)
    raise AssertionError("no such street")


def test_names_of_objects_mean_what_the_scene_shows(street: tuple[Rendering, ParserOutput]) -> None:
    rendering, output = street
    cars = rendering.semantic == SEMANTIC.index("car")
    assert same(object_mask("all cars", output, 0), cars)
    assert same(object_mask("traffic light", output, 0), rendering.semantic == SEMANTIC.index("traffic light"))
    assert torch.equal(object_mask("person", output, 0), object_mask("Nearest Pedestrian", output, 0))
    lowest = max((box for box in rendering.boxes if box.category == "car"), key=lambda box: box.y2)
    assert same(object_mask("car", output, 0), rendering.instance == lowest.instance)
    assert torch.equal(object_mask("car", output, 0), region_mask("nearest car", 64, 128, output))
    sky = torch.from_numpy(rendering.semantic == SEMANTIC.index("sky"))
    assert torch.equal(object_mask("sky", output, 0), sky)
    left, right = object_mask("all vehicles left", output, 0), object_mask("all vehicles right", output, 0)
    assert torch.equal(object_mask("sky left", output, 0), sky & (torch.arange(128) < 64))
    assert torch.equal(left | right, object_mask("all vehicles", output, 0))


def test_a_thing_is_told_from_what_touches_it() -> None:
    """Two cars side by side: the box of the left one holds a part of the right one, which is not of its region."""
    semantic, instance = np.full((32, 64), SEMANTIC.index("road"), np.uint8), np.zeros((32, 64), np.uint16)
    instance[14:26, 10:30], instance[8:20, 30:50] = 1, 2
    semantic[instance > 0] = SEMANTIC.index("car")
    boxes = (Box("car", 10, 14, 33, 26), Box("car", 30, 8, 50, 20))
    empty = np.zeros_like(semantic)
    output = knowing(Rendering(np.zeros((32, 64, 3), np.uint8), semantic, instance, empty, empty, boxes))
    assert np.array_equal(object_mask("car left", output, 0).numpy(), instance == 1)
    assert np.array_equal(object_mask("car right", output, 0).numpy(), instance == 2)
    assert np.array_equal(object_mask("nearest cars", output, 0).numpy(), instance == 1)  # its foot is lower
    hidden = dataclasses.replace(output, semantic=output.semantic.roll(1, dims=1))  # all is called something else
    box = np.zeros((32, 64), bool)
    box[8:20, 30:50] = True
    unnamed = dataclasses.replace(hidden, centres=output.centres - 100)  # and no thing is told from another
    assert np.array_equal(object_mask("car right", unnamed, 0).numpy(), box)


def test_unknown_and_absent_objects_are_told(street: tuple[Rendering, ParserOutput]) -> None:
    _, output = street
    with pytest.raises(BlobexError, match=r"no object is called 'red car': .*one of pedestrian, .*vehicle, road"):
        object_mask("red car", output, 0)
    with pytest.raises(BlobexError, match="no object is called 'ahead'"):
        object_mask("ahead", output, 0)
    with pytest.raises(BlobexError, match=r"there is no train left in the picture, but .*\d car, .*road, .*sky"):
        object_mask("train left", output, 0)
    with pytest.raises(BlobexError, match="'car ahead' is a name, which takes a trained parser"):
        region_mask("car ahead", HEIGHT, WIDTH)


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


def test_the_blob_that_stands_there_is_chosen() -> None:
    places = [(0.15, 0.5), (0.5, 0.2), (0.8, 0.7)]
    scores = splat(plain_layout([x for x, _ in places], [y for _, y in places], [3.0, 3, 3]), HEIGHT, WIDTH)
    for number, (x, y) in enumerate(places):
        box = f"{x - 0.05},{y - 0.1},{x + 0.05},{y + 0.1}"
        chosen, background = painting_blobs(scores, parse_region(box, HEIGHT, WIDTH)[None])
        assert chosen == [[number]] and background == [False]


def painted(*shares: dict[str, float]) -> tuple[Tensor, Tensor]:
    """Score maps of blobs that paint these shares `there`, of a region of 100 pixels, and of 900 pixels `elsewhere`."""
    scores = torch.zeros(1, len(shares) + 1, 20, 50)
    region = torch.zeros(1, 20, 50, dtype=torch.bool)
    region[:, :2] = True
    for number, share in enumerate(shares):
        scores[0, number + 1, :2], scores[0, number + 1, 2:] = share["there"], share["elsewhere"]
    scores[:, 0] = 1 - scores[:, 1:].sum(1)
    return scores, region


@pytest.mark.parametrize(
    ("there", "elsewhere", "chosen"),
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
def test_the_rule_by_hand(there: list[float], elsewhere: list[float], chosen: list[int]) -> None:
    scores, region = painted(*({"there": a, "elsewhere": b} for a, b in zip(there, elsewhere, strict=True)))
    most = 1 - sum(there) > 0.5
    assert painting_blobs(scores, region) == ([chosen], [False])
    assert painting_blobs(scores, region, background=True) == ([chosen], [most])


def test_what_nothing_paints_is_told() -> None:
    scores, region = painted({"there": 0.04, "elsewhere": 0.5})
    with pytest.raises(BlobexError, match="the region is painted by the background: allow it or choose another"):
        painting_blobs(scores, region)
    assert painting_blobs(scores, region, background=True) == ([[]], [True])
    many, region = painted(*[{"there": 0.04, "elsewhere": 0.04}] * 24)
    with pytest.raises(BlobexError, match="painted by many blobs"):
        painting_blobs(many, region, background=True)
    with pytest.raises(BlobexError, match="of picture 1 is"):
        painting_blobs(torch.cat([splat(plain_layout([0.5], [0.0], [9.0]), 20, 50), scores]), region)
    with pytest.raises(BlobexError, match="no pixel"):
        painting_blobs(scores, region & False)
    for wrong in (region[0], region.float(), region[:, 1:], region.expand(3, -1, -1)):
        with pytest.raises(BlobexError, match=r"bool \(1 or 1,20,50\)"):
            painting_blobs(scores, wrong)


def test_the_whole_picture_has_all_blobs_that_paint_some_of_it() -> None:
    random = torch.Generator().manual_seed(0)
    places = torch.rand(6, 2, 8, generator=random)
    sizes = torch.randn(6, 8, generator=random) * 3
    layouts = [plain_layout(x.tolist(), y.tolist(), size.tolist()) for (x, y), size in zip(places, sizes, strict=True)]
    scores = torch.cat([splat(layout, HEIGHT, WIDTH) for layout in layouts])
    chosen, background = painting_blobs(scores, torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool), background=True)
    means = scores.mean((2, 3))
    assert chosen == [[k for k in range(8) if row[k + 1] >= 0.02] for row in means.tolist()]
    assert background == (means[:, 0] > 0.5).tolist()
    assert 6 < sum(map(len, chosen)) < 48  # both occur
