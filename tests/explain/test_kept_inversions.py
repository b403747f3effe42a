"""Stopped runs keep their inversions; images about which nothing is asked are not inverted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from torch import Tensor
from worlds.tiny_world import OUTPUTS, decide, road_images, tiny_explainer, tiny_params

from blobex.decisions.source import from_callable
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.explain.results_folder import kept
from blobex.inversion.inversion import Inversion

REQUEST = Request(["stop"])


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stopped_run_goes_on_with_its_inversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, images = tiny_explainer(tiny_params(steps=10)), road_images(3)
    tiny.explain(images, REQUEST, tmp_path / "whole")
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(Explainer, "search", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny.explain(images, REQUEST, out)
    assert kept(out) == f"{out} keeps 0 explained and 3 inverted images: the same command goes on from there"
    damaged = sorted((out / "inversions").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    inverted = list[int]()
    original = Explainer.invert

    def invert(self: Explainer, queries: Tensor, *rest: object) -> Inversion:
        inverted.append(len(queries))
        return original(self, queries, *rest)

    monkeypatch.setattr(Explainer, "invert", invert)
    tiny.explain(images, REQUEST, out)
    assert inverted == [1]  # the damaged one
    assert contents(out) == contents(tmp_path / "whole")


def test_inversion_of_another_image_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, (first, second, *_) = tiny_explainer(tiny_params(steps=3)), road_images(3)
    with monkeypatch.context() as patch:
        patch.setattr(Explainer, "search", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny.explain(first, REQUEST, tmp_path)
    (record,) = tiny.explain(second, REQUEST, tmp_path)
    (fresh,) = tiny.explain(second, REQUEST)
    assert (
        dataclasses.replace(record, image=fresh.image) == fresh
        and (record.reconstruction == fresh.reconstruction).all()
    )


def test_answered_questions_cost_no_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that wins already: the encoder's layout is enough."""
    tiny = tiny_explainer(tiny_params(steps=3), from_callable(decide, "classes", OUTPUTS, name="mine:net"))
    steps = list[object]()
    original = Explainer.invert

    def invert(self: Explainer, queries: Tensor, start: object, number: object) -> Inversion:
        steps.append(number)
        return original(self, queries, start, number)

    monkeypatch.setattr(Explainer, "invert", invert)
    assert [record.verdict for record in tiny.explain(road_images(1), REQUEST)] == ["already so"]
    assert steps == [0]
