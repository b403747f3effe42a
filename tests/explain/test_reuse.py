"""Kept explanations are reused only if they answer the same question about the same model."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from worlds.tiny_world import OUTPUTS, decide, road_images, tiny_explainer, tiny_params

from blobex.core.device import Ranks
from blobex.core.errors import BlobexError
from blobex.decisions.source import from_callable
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.request import Output, Request
from blobex.explain.results_folder import ResultsFolder

OTHER = "holds results of other settings"


def explained(out: Path, model: object = decide, request: Request | None = None, **options: bool) -> list[Explanation]:
    decision = from_callable(model, "attributes", OUTPUTS, name="painted")  # type: ignore[arg-type]
    explainer = tiny_explainer(tiny_params(4), decision)
    return explainer.explain(road_images(1), request or Request(["stop"]), Output(out, **options))


@pytest.fixture
def inverted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of images of each inversion."""
    counts, invert = list[int](), Explainer.invert

    def counting(self: Explainer, queries: Tensor, *rest: object) -> object:
        counts.append(len(queries))
        return invert(self, queries, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Explainer, "invert", counting)
    return counts


def test_the_same_question_is_answered_from_the_folder(tmp_path: Path, inverted: list[int]) -> None:
    first = explained(tmp_path / "out")
    assert explained(tmp_path / "out") == first and inverted == [1]


FUNCTION = """
import torch
def score(images):
    light = images[:, :, 2:12, 26:38].mean((2, 3))
    red = 8 * (light[:, 0] - light[:, 1])
    return torch.stack([-red, +red, red, red], 1)
"""


def test_another_body_of_a_function_is_another_model(
    tmp_path: Path, inverted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def written(sign: str) -> object:
        sys.modules.pop("users_function", None)
        (tmp_path / "users_function.py").write_text(FUNCTION.replace("+red", f"{sign}red"))
        importlib.invalidate_caches()
        return importlib.import_module("users_function").score

    (first,) = explained(tmp_path / "out", written("+"))
    with pytest.raises(BlobexError, match=rf"{OTHER} \(the decision model is another\)"):
        explained(tmp_path / "out", written("-"))
    (second,) = explained(tmp_path / "out", written("-"), replace=True)
    assert (first.from_class, second.from_class) == ("stop", "not stop") and inverted == [1, 1]


class Painted(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return decide(images)


def test_another_forward_of_a_module_is_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explained(tmp_path / "out", Painted())
    monkeypatch.setattr(Painted, "forward", lambda self, images: -decide(images))
    with pytest.raises(BlobexError, match=OTHER):
        explained(tmp_path / "out", Painted())


def test_a_model_trained_on_between_two_calls_is_another_model(tmp_path: Path) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    decision = from_callable(net, "attributes", OUTPUTS)
    explainer = tiny_explainer(tiny_params(4), decision)
    explainer.explain(road_images(1), Request(["stop"]), tmp_path / "out")
    with torch.no_grad():
        net[2].bias += 1
    with pytest.raises(BlobexError, match=OTHER):
        explainer.explain(road_images(1), Request(["stop"]), tmp_path / "out")


def test_what_no_code_shows_is_seen_in_the_answers(tmp_path: Path) -> None:
    """A model that reads its sign from a file at each call."""
    sign = tmp_path / "sign.txt"

    def reading(images: Tensor) -> Tensor:
        return decide(images) * float(sign.read_text())

    for text, words in (("1", ""), ("1.0000001", ""), ("-1", r"\(the decision model answers otherwise\)")):
        sign.write_text(text)
        if words:
            with pytest.raises(BlobexError, match=words):
                explained(tmp_path / "out", reading)
        else:
            explained(tmp_path / "out", reading)


def test_an_unknown_model_is_never_reused(tmp_path: Path, inverted: list[int]) -> None:
    hidden = (number for number in range(9))

    def model(images: Tensor) -> Tensor:
        return decide(images) if hidden else -decide(images)

    explained(tmp_path / "out", model)
    with pytest.raises(BlobexError, match=r"the decision model holds a builtins\.generator, which cannot be compared"):
        explained(tmp_path / "out", model)
    explained(tmp_path / "out", model, refresh=True)
    assert inverted == [1, 1]


def test_the_pixels_of_a_mask_are_part_of_the_question(tmp_path: Path, inverted: list[int]) -> None:
    mask, pixels = tmp_path / "mask.png", np.zeros((32, 64), np.uint8)
    pixels[2:12, 26:38] = 255
    Image.fromarray(pixels).save(mask)
    request = Request(["stop"], only=str(mask))
    explained(tmp_path / "out", request=request)
    Image.fromarray(pixels).save(mask, compress_level=0)  # another file of the same pixels
    explained(tmp_path / "out", request=request)
    assert inverted == [1]
    Image.fromarray(np.roll(pixels, 12, axis=0)).save(mask)
    with pytest.raises(BlobexError, match=rf"{OTHER} \(mask was "):
        explained(tmp_path / "out", request=request)


def test_replace_always_computes_again_and_refresh_only_what_changed(tmp_path: Path, inverted: list[int]) -> None:
    explained(tmp_path / "out", refresh=True)
    explained(tmp_path / "out", refresh=True)
    assert inverted == [1]
    explained(tmp_path / "out", replace=True)
    assert inverted == [1, 1]
    explained(tmp_path / "out", refresh=True, request=Request(["left"]))
    assert inverted == [1, 1, 1]


def test_processes_share_a_folder_of_an_unknown_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first decides what is continued; the others find what it has written."""
    monkeypatch.setattr(Ranks, "wait", lambda self: None)
    settings = {"setup": "rect", "decision": {"unknown": "a socket"}}
    ResultsFolder.open(Output(tmp_path / "out"), settings, Ranks(0, 2))
    ResultsFolder.open(Output(tmp_path / "out"), settings, Ranks(1, 2))
    with pytest.raises(BlobexError, match="setup was rect and is square"):
        ResultsFolder.open(Output(tmp_path / "out", replace=True), settings | {"setup": "square"}, Ranks(1, 2))
    with pytest.raises(BlobexError, match="a socket"):
        ResultsFolder.open(Output(tmp_path / "out"), settings, Ranks(0, 2))
