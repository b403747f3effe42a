"""Audits of models whose dependences are known by construction, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.tiny_world import HEIGHT, WIDTH, road_images, tiny_explainer

from blobex.cli import main as cli
from blobex.core.errors import BlobexError
from blobex.datasets.images import write_png
from blobex.decisions.source import from_callable
from blobex.explain import audit as module
from blobex.explain import stored_interventions as stored
from blobex.explain.audit import audit, decisions, dependences, factor_of, factor_pairs, sentences
from blobex.explain.explainer import Explainer
from blobex.explain.interventions import Intervention, choose
from blobex.explain.loading import decided
from blobex.explain.stored_interventions import stored_interventions
from blobex.perception.ground import Ground
from blobex.perception.reading import DetectedObject, SceneReading

CAR = DetectedObject("car", (1.0, 20.0, 9.0, 30.0), 0.9, (0, 0, 0), "left", -3.0, 9.0)
COUNT = 12


def sky(images: Tensor) -> Tensor:
    """Mean brightness (N,) of the upper half."""
    return images[:, :, : HEIGHT // 2].mean((1, 2, 3))


def left_by_day(images: Tensor) -> Tensor:
    """Logits of left, which a bright sky allows, and right, which nothing changes."""
    return torch.stack([sky(images), torch.ones(len(images))], 1)


MODEL = from_callable(left_by_day, "attributes", ("left", "right"), name="by_day")


def bright(day: bool) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), 200 if day else 20, np.uint8)


def reading(objects: tuple[DetectedObject, ...]) -> SceneReading:
    return SceneReading(objects, "none", False, "dashed", "dashed", {}, 0.1, 0.1, Ground(), (HEIGHT, WIDTH))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images, every other at night."""
    for number in range(COUNT):
        write_png(tmp_path / "photos" / f"{number:02d}.png", bright(number % 2 == 0))
    return tmp_path / "photos"


@pytest.fixture
def explainer(monkeypatch: pytest.MonkeyPatch) -> Explainer:
    """An explainer whose generator changes the light and adds a car, and whose parser sees a car everywhere."""

    def made(explainer, queries):
        for query in queries:
            is_day = bool(sky(query[None]) > 0)
            image = bright(is_day)
            image[-4:, :8] = 90
            light = Intervention(f"time turned {'night' if is_day else 'day'}", bright(not is_day))
            yield [light, Intervention("vehicle on the left added", image)]

    monkeypatch.setattr(stored, "interventions", made)
    monkeypatch.setattr(Explainer, "readings", lambda self, images: [reading((CAR,))] * len(images))
    return tiny_explainer(decision=MODEL)


def test_finds_the_only_cause(explainer: Explainer, folder: Path, tmp_path: Path) -> None:
    found = audit(explainer, folder, tmp_path / "kept")
    assert found.images == COUNT
    by_name = {(each.output, each.factor): each for each in found.dependences}
    assert set(by_name) == {(o, f) for o in ("left", "right") for f in ("time of day", "vehicle on the left")}
    cause = by_name["left", "time of day"]
    assert cause.effect.effect.mean == -1 and cause.verified and cause.images == COUNT
    assert cause.effect.necessity is not None and cause.effect.necessity.mean == 1
    assert cause.decisions == (True, False)  # of the example: day allows left, night does not
    assert [name for name, each in by_name.items() if each.verified] == [("left", "time of day")]
    assert sentences(found.dependences) == [
        "this model's left turns depend on: time of day (-1.00 [-1.00, -0.63])",
        "this model's right turns depend on: nothing that was tried",
    ]
    few = [dataclasses.replace(each, verified=False) for each in found.dependences]
    assert sentences(few)[0] == (
        "this model's left turns depend on: likely time of day (-1.00 [-1.00, -0.63]); give more images to prove it"
    )


def test_stopped_audit_continues_and_other_images_are_made_anew(
    explainer: Explainer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = explainer.load_images(folder)
    first = stored_interventions(explainer, images.names, images.queries, tmp_path / "kept")
    asked = list[int]()

    def counted(explainer, queries):
        asked.append(len(queries))
        return iter([[Intervention("sky grew", bright(True))]] * len(queries))

    monkeypatch.setattr(stored, "interventions", counted)
    again = stored_interventions(explainer, images.names, images.queries, tmp_path / "kept")
    assert asked == [] and [[e.phrase for e in own] for own in again] == [[e.phrase for e in own] for own in first]
    assert all(
        (a.image == b.image).all() for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    (tmp_path / "kept" / "0003_03" / stored.CHANGES).unlink()
    other = images.queries.clone()
    other[5] = -other[5]
    stored_interventions(explainer, images.names, other, tmp_path / "kept")
    assert asked == [2]


def test_command_prints_and_writes_a_page(
    explainer: Explainer,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Explainer, "load", lambda *arguments: explainer)
    out = tmp_path / "out"
    for _ in range(2):  # the second run finds what is there
        cli.app(["audit", str(folder), "--out", str(out)], standalone_mode=False)
        assert "this model's left turns depend on: time of day (-1.00 [-1.00, -0.63])" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"audit.html", "audit.json", "interventions"}
    page = (out / "audit.html").read_text()
    assert page.count("data:image/webp") == 2 and "time of day on, " in page and "http://" not in page
    rows = json.loads((out / "audit.json").read_text())
    assert [row["factor"] for row in rows if row["verified"]] == ["time of day"]
    (out / "notes.txt").touch()
    with pytest.raises(BlobexError, match="other files"):
        cli.app(["audit", str(folder), "--out", str(out)], standalone_mode=False)


def test_one_image_is_refused(explainer: Explainer, tmp_path: Path) -> None:
    write_png(tmp_path / "one" / "a.png", bright(True))
    with pytest.raises(BlobexError, match="has 1 image: give 8 or more"):
        audit(explainer, tmp_path / "one", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_folder_without_vehicles_is_refused(
    explainer: Explainer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Explainer, "readings", lambda self, images: [reading(())] * len(images))
    with pytest.raises(BlobexError, match="sees no vehicle"):
        audit(explainer, folder, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_model_whose_decisions_never_change_is_refused(explainer: Explainer, folder: Path, tmp_path: Path) -> None:
    constant = from_callable(lambda images: torch.ones(len(images), 2), "attributes", ("left", "right"), name="yes")
    with pytest.raises(BlobexError, match="yes decides every image alike before and after all 24 changes"):
        audit(dataclasses.replace(explainer, decision=constant), folder, tmp_path / "kept")


def test_regressions_and_networks_without_examples_are_refused(folder: Path, tmp_path: Path) -> None:
    number = from_callable(left_by_day, "regression", ("speed", "brake"), name="controls")
    with pytest.raises(BlobexError, match="controls makes none"):
        audit(dataclasses.replace(tiny_explainer(), decision=number), folder, tmp_path / "kept")
    plain = tiny_explainer()
    queries = plain.load_images(road_images(1)).queries
    with pytest.raises(BlobexError, match="blobgan_pretrain"):
        stored_interventions(plain, ["a"], queries, tmp_path / "kept")


def test_pairs_are_ordered_off_and_on() -> None:
    image, changed = bright(True), bright(False)
    made = [[Intervention("vehicle ahead added", changed)], [Intervention("vehicle ahead removed", changed)]]
    first, second = factor_pairs(["a", "b"], [image, image], made)["vehicle ahead"]
    assert (first.off == image).all() and (second.on == image).all()


def test_classes_are_decisions_too() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, -1.0, 0.0]])
    assert decisions(logits, "classes").tolist() == [[False, True, False], [True, False, False]]
    model = from_callable(lambda images: torch.stack([sky(images), -sky(images)], 1), "classes", ("day", "night"))
    names = [str(number) for number in range(10)]
    made = [[Intervention("time turned night", bright(False))]] * 10
    pairs = factor_pairs(names, [bright(True)] * 10, made)
    found = dependences(pairs, model, decided(model, torch.device("cpu"), 4))
    assert {each.output: each.effect.effect.mean for each in found} == {"day": -1.0, "night": 1.0}


def test_factors_join_both_directions_of_a_phrase() -> None:
    assert factor_of("red light added") == ("red light", True) == factor_of("light turned red")
    assert factor_of("sky shrank") == ("amount of sky", False)
    assert factor_of("vehicle ahead moved nearer") == ("place of vehicle ahead", True)
    assert factor_of("something else") == ("something else", True)


def test_choice_depends_on_the_images_alone() -> None:
    phrases = [[], ["car recoloured"], ["car recoloured"], ["time turned night", "sky grew"], ["time turned night"]]
    assert choose(phrases, [0, 0.3, 0.2, 0.1, 0.5], [False, False, False, True, False]) == {
        "car recoloured": 2,
        "time turned night": 3,
    }
    assert module.LEAST_IMAGES >= 6  # fewer could not reach p = 0.05 in a two-sided exact test
