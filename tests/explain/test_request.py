"""Requests and plans, the gate, regions and sentences, in the tiny world."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.tiny_world import (
    BLOBS,
    HEIGHT,
    OUTPUTS,
    WIDTH,
    decide,
    render,
    road_images,
    scenes,
    tiny_explainer,
    tiny_params,
)

from blobex.config.value_types import Shape
from blobex.core.errors import BlobexError
from blobex.explain.explainer import Explainer
from blobex.explain.request import Plan, Request, make_plan
from blobex.inversion.inversion import Inversion
from blobex.networks.parser import ParserOutput
from blobex.scenes.labels import DETECTION, SEMANTIC

LIGHT = "0.42,0.08,0.58,0.36"  # where blob 4 is


def test_only_selects_the_blobs_that_paint_a_region() -> None:
    for record in tiny_explainer().explain(road_images(3), Request(["stop"], only=LIGHT)):
        assert record.changed_blobs == ["4"] and record.verdict == "flipped"
    sky = "0.8,0 1,0 1,0.1 0.8,0.1"  # only the background paints there
    with pytest.raises(BlobexError, match="array_0: the region is painted by the background: allow it"):
        tiny_explainer().explain(road_images(1), Request(["stop"], only=sky))
    record = tiny_explainer().explain(road_images(1), Request(["stop"], only=sky, background=True))[0]
    assert set(record.changed_blobs) <= {"background"}
    with pytest.raises(BlobexError, match="both blobs and only are given: give one"):
        tiny_explainer().explain(road_images(1), Request(["stop"], only=LIGHT, blobs=[4]))
    with pytest.raises(BlobexError, match="region 'car ahead' is a name, which takes a trained parser"):
        tiny_explainer().explain(road_images(1), Request(["stop"], only="car ahead"))


def test_a_plan_takes_open_values_from_the_parameters() -> None:
    explain = tiny_params().explain

    def plan(request: Request, setup: Shape = "rect") -> Plan:
        return make_plan(request, [1], None, explain, setup)

    basic = plan(Request())
    assert (basic.variant, basic.search, basic.photo) == (explain.basic, explain.rect, True)
    named = plan(Request(blobs=[1], few=False, count=2, compose="full", steps=3, gate="skip"), "square")
    assert named.variant == dataclasses.replace(explain.basic, background=False, few=False, count=2)
    assert named.search == dataclasses.replace(explain.square, steps=3)
    assert not named.photo and named.gate.action == "skip"
    assert plan(Request(variant="diverse")).variant == explain.diverse
    assert plan(Request(blobs=[1], background=True)).variant.background
    for request, message in (
        (Request(variant="odd"), "unknown variant 'odd': choose from basic, targeted, diverse"),
        (Request(count=0), r"explain\.basic\.count is 0"),
        (Request(compose="collage"), r"explain\.compose is 'collage'"),
        (Request(gate="hope"), r"explain\.gate\.action is 'hope'"),
        (Request(keys=["colour"]), "unknown key 'colour'"),
    ):
        with pytest.raises(BlobexError, match=message):
            plan(request)


def mistaken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From now on the first inversion takes every picture for its neighbour; the steps of all inversions are noted."""
    inner, noted = Explainer.invert, list[int]()

    def invert(self: Explainer, queries: Tensor, start: object = None, steps: int | None = None) -> Inversion:
        noted.append(-1 if steps is None else steps)
        if start is not None:
            return inner(self, queries)  # a second look puts it right
        swapped = torch.arange(len(queries)) ^ 1
        return inner(self, queries[swapped])

    monkeypatch.setattr(Explainer, "invert", invert)
    return noted


def test_the_published_search_cannot_skip() -> None:
    published = dataclasses.replace(tiny_params(), search=dataclasses.replace(tiny_params().search, mode="published"))
    with pytest.raises(BlobexError, match="skips nothing: let the gate report"):
        tiny_explainer(published).explain(road_images(1), Request(["stop"], gate="skip"))


def test_the_gate_reports_skips_or_refines_wrong_reconstructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Red and green lights alternate, so that every neighbour is decided otherwise about stop."""
    noted = mistaken(monkeypatch)
    explainer = tiny_explainer(tiny_params(steps=5))
    for record in explainer.explain(road_images(4), Request(["stop"], compose="full")):
        assert record.gate == "already decided otherwise" and not record.reconstruction_agrees
        assert record.verdict != "flipped"
    assert noted == [-1]
    for record in explainer.explain(road_images(4), Request(["stop"], gate="skip")):
        assert record.verdict == "skipped" and not record.flipped and record.changed_blobs == []
        assert np.array_equal(record.counterfactual, record.query)
    noted.clear()
    for record in tiny_explainer().explain(road_images(4), Request(["stop"], compose="full", gate="refine")):
        assert record.gate == "" and record.verdict == "flipped"
    assert noted == [-1, tiny_params().explain.gate.refine_steps]


def test_the_gate_has_a_distance_limit() -> None:
    params = tiny_params(steps=3)
    gate = dataclasses.replace(params.explain.gate, perceptual=1e-6)
    strict = dataclasses.replace(params, explain=dataclasses.replace(params.explain, gate=gate))
    assert tiny_explainer(strict).explain(road_images(1), Request(["stop"]))[0].gate == "further off than 1e-06"
    assert tiny_explainer(params).explain(road_images(1), Request(["stop"]))[0].gate == ""


class Sees:
    """A parser that knows the painted world: road below, sky above, and a traffic light where one is painted."""

    def __call__(self, images: Tensor) -> ParserOutput:
        count, (height, width) = len(images), (HEIGHT // 2, WIDTH // 2)
        semantic = torch.zeros(count, len(SEMANTIC), HEIGHT, WIDTH)
        semantic[:, SEMANTIC.index("sky"), : HEIGHT // 2] = 1
        semantic[:, SEMANTIC.index("road"), HEIGHT // 2 :] = 1
        drivable = torch.zeros(count, 3, HEIGHT, WIDTH)
        drivable[:, 2] = 0.5
        drivable[:, 0, HEIGHT // 2 :, 20:44] = 1
        heat = torch.full((count, len(DETECTION), height, width), -9.0)
        patch = images[:, :, 4:10, 29:35].mean((2, 3))
        lit = (patch[:, 0] - patch[:, 1]).abs() > 0.4
        heat[:, DETECTION.index("traffic light"), 3, 16] = torch.where(lit, 9.0, -9.0)
        size = torch.full((count, 2, height, width), 2.0)
        middle = torch.full((count, 2, height, width), 0.5)
        flat = torch.zeros(count, 2, HEIGHT, WIDTH)
        return ParserOutput(heat, middle, size, semantic, flat[:, :1] - 9, flat, drivable)


def test_changes_are_described_as_objects() -> None:
    seeing = dataclasses.replace(tiny_explainer(), parser=Sees())  # type: ignore[arg-type]
    for record in seeing.explain(road_images(2), Request(["stop"], blobs=[4], keys=["appearance"])):
        assert "light" in record.sentence
        assert [each["thing"] for each in record.objects if "light" in str(each["thing"])]
    unchanged = seeing.explain(road_images(2), Request(["stop"], blobs=[0], keys=["style"], steps=1))
    assert {record.sentence for record in unchanged} == {"nothing that the parser sees changed"}
    assert {
        record.sentence for record in tiny_explainer(tiny_params(2)).explain(road_images(1), Request(["stop"]))
    } == {""}


def test_words_describe_the_change_of_each_blob() -> None:
    record = tiny_explainer().explain(road_images(1), Request(["stop"], blobs=[4], keys=["position"], compose="full"))[
        0
    ]
    (change,) = record.blobs
    assert change.blob == 4 and set(change.keys) <= {"xs", "ys"}
    assert change.x_after == pytest.approx(record.blobs_after.xs[0, 4].item())
    assert record.words.startswith("blob 4 moved ") and " by 0." in record.words
    assert 0 < change.area_before < 0.1


def test_several_counterfactuals_change_different_blobs() -> None:
    """The light is red, so that it can go green, or the picture's red can be made up for elsewhere."""
    records = tiny_explainer(tiny_params(steps=120)).explain(road_images(8), Request(["left", "right"], count=2))
    assert [record.number for record in records] == [0, 1] * 16
    pairs = [(records[i], records[i + 1]) for i in range(0, len(records), 2)]
    parted = [set(a.changed_blobs).isdisjoint(b.changed_blobs) for a, b in pairs if a.flipped and b.flipped]
    assert len(parted) >= 4 and np.mean(parted) >= 0.5  # where one blob alone can flip, two answers must share it


def test_the_tiny_world_is_as_described() -> None:
    assert OUTPUTS[1] == "stop" and decide(render(scenes(2)))[:, 1].gt(0).tolist() == [True, False] and BLOBS == 5
