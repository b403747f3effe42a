"""Images that can show no road scene: too small, of one colour, or of an extreme shape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds.tiny_world import road_images, tiny_explainer, tiny_params

from blobex.explain.input_images import load_images
from blobex.explain.request import Request
from blobex.explain.results_folder import read_results

NOISE = np.random.default_rng(0).integers(0, 256, (400, 800, 3), dtype=np.uint8)


def doubt_about(image: np.ndarray) -> str:
    """Return the doubt about an image for networks of 128 x 64 pixels."""
    return load_images(image, 64, 128).doubt(0)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.full((1, 1, 3), 90, np.uint8), "too small (1 x 1 pixels for 128 x 64) and of one colour"),
        (np.full((400, 800, 3), 200, np.uint8), "of one colour"),
        (np.resize(NOISE, (10, 20_000, 3)), "too wide (20000 x 10 pixels, of which 0.1% are seen) and too small (20 x"),
        (np.resize(NOISE, (6000, 200, 3)), "too tall (200 x 6000 pixels, of which 1.7% are seen)"),
        (NOISE[:31, :62], "too small (62 x 31 pixels for 128 x 64)"),
    ],
)
def test_doubts_by_hand(image: np.ndarray, words: str) -> None:
    assert doubt_about(image).startswith(f"the image is {words}")


@pytest.mark.parametrize("shape", [(400, 800), (64, 128), (32, 64), (400, 300), (400, 225), (150, 800)])
def test_usual_shapes_are_not_doubted(shape: tuple[int, int]) -> None:
    """Also photos of a telephone held upright, and panoramas."""
    assert doubt_about(NOISE[: shape[0], : shape[1]]) == ""


def test_dark_scene_is_not_of_one_colour(tmp_path: Path) -> None:
    dark = (NOISE // 16).repeat(8, 0).repeat(8, 1)[:400, :800]
    assert doubt_about(dark) == ""
    Image.new("RGB", (800, 400), (120, 30, 200)).save(tmp_path / "flat.jpg", quality=30)
    assert load_images(tmp_path / "flat.jpg", 64, 128).doubt(0) == "the image is of one colour"


def test_explanations_say_what_is_wrong_with_an_image(tmp_path: Path) -> None:
    good, bad = road_images(1)[0], np.full((1, 1, 3), 90, np.uint8)
    explainer = tiny_explainer(tiny_params(steps=4))
    records = explainer.explain([good, bad], Request(["stop"]), tmp_path / "out")
    assert not records[0].doubt and "trusted" not in records[0].words
    assert records[1].words.startswith("not to be trusted, as the image is too small (1 x 1 pixels for ")
    assert [record.doubt for record in read_results(tmp_path / "out")] == ["", records[1].doubt]
    files = sorted((tmp_path / "out").rglob("record.json"))
    (first,), (second,) = (json.loads(file.read_text())["explanations"] for file in files)
    assert "doubt" not in first and second["doubt"] == records[1].doubt and second["words"] == records[1].words
    again = explainer.explain([good, bad], Request(["stop"]), tmp_path / "out")
    assert [record.doubt for record in again] == ["", records[1].doubt]
