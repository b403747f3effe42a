"""Images of no road scene: uncertainty by hand, its bound, and photos beside scenes for the reference models."""

from pathlib import Path

import numpy as np
import pytest
import torch
from imports import ROOT
from torch import Tensor, nn
from worlds.tiny_world import road_images, tiny_explainer, tiny_params

from blobex.explain import foreign
from blobex.explain.explainer import Explainer
from blobex.explain.foreign import foreign_images, uncertainty
from blobex.explain.input_images import FOREIGN, Sources
from blobex.explain.many import explain_into
from blobex.explain.request import Output, Request
from blobex.explain.results_folder import read_results
from blobex.networks.parser import Parser, ParserOutput
from blobex.scenes.render import render
from blobex.scenes.sample import sample

CPU = torch.device("cpu")


class Unsure(nn.Module):
    """Two categories: the brighter the blue of a pixel, the surer the parser is of the first."""

    def forward(self, images: Tensor) -> ParserOutput:
        semantic = torch.stack([4 * images[:, 2] + 4, torch.zeros_like(images[:, 2])], 1)
        return ParserOutput(*(semantic for _ in range(7)))


def flat(*blue: float) -> Tensor:
    return torch.tensor(blue)[:, None, None, None].expand(-1, 3, 4, 8)


def test_uncertainty_by_hand() -> None:
    """Of a sigmoid of 4 blue + 4, and of an image of two halves the mean."""
    images = flat(-1.0, 0.0, 1.0).clone()
    expected = [0.5, 1 / (1 + np.exp(4)), 1 / (1 + np.exp(8))]
    found = uncertainty(Unsure(), images)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    images[0, :, :2] = 1.0
    assert uncertainty(Unsure(), images)[0].item() == pytest.approx((expected[0] + expected[2]) / 2, abs=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("generated", "flags"),
    [
        (0.0, [False, False, True, True]),  # uncertainty 0.018: half of the limit, which SURE raises to 0.05
        (-0.5, [False, False, False, True]),  # 0.119, and so 0.238
        (-1.0, [False] * 4),  # a parser that is never sure knows no other world
    ],
)
def test_bound_follows_from_generated_images(generated: float, flags: list[bool], monkeypatch) -> None:
    made: list[int] = []

    def sample(_: object, count: int, batch_size: int, seed: int) -> list[Tensor]:
        made.append(count)
        shade = round((generated + 1) * 127.5)
        return [torch.full((batch_size, 3, 4, 8), shade, dtype=torch.uint8)] * (count // batch_size)

    monkeypatch.setattr(foreign, "sample_images", sample)
    tell = foreign_images(Unsure(), None, CPU)  # type: ignore[arg-type]
    assert tell(flat(1.0, 0.5)) == [False, False] and tell(flat()[:0]) == [] and not made
    assert tell(flat(0.5, 0.0, -0.4, -0.8)) == flags  # uncertainty 0.002, 0.018, 0.083, 0.310
    assert tell(flat(-0.4)) == flags[2:3] and made == [foreign.GENERATED]


def test_explanations_say_so(tmp_path: Path) -> None:
    explainer = tiny_explainer(tiny_params(steps=4))
    odd = Explainer(**{**vars(explainer), "foreign": lambda images: [True] + [False] * (len(images) - 1)})
    images, request = road_images(2), Request(["stop"])
    for records in (
        odd.explain(images, request, tmp_path / "whole"),
        list(explain_into(odd, images, request, Output(tmp_path / "many"))),
        read_results(tmp_path / "whole"),
    ):
        assert [record.doubt for record in records] == [FOREIGN, ""]
        assert records[0].words.startswith(f"not to be trusted, as {FOREIGN}: ")
    flat_one = np.zeros((32, 64, 3), np.uint8)  # is said to be of one colour, which is why
    assert "one colour" in Sources.of([flat_one]).load([0], 32, 64, lambda images: [True]).doubt(0)


@pytest.mark.slow
@pytest.mark.parametrize("setup", ["square", "rect"])
def test_a_temple_is_no_road_scene(setup: str) -> None:
    """Photos from scikit-learn and scenes upside down are flagged, scenes that no network has seen are not."""
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    if not (ROOT / "models/parser" / setup).is_dir():
        pytest.skip("the reference models are not here: dvc pull")
    explainer = Explainer.load(setup, ROOT / "models", ROOT / "params.yaml", "cpu")
    assert isinstance(explainer.parser, Parser)
    size = explainer.params.setup(setup)
    scenes = [render(sample(9_500_000 + seed)).image for seed in range(24)]  # 64x128
    flags = []
    for images in (scenes, [scene[::-1].copy() for scene in scenes], photos):
        share = Sources.of(images).load(range(len(images)), size.height, size.width, explainer.foreign)
        flags.append({share.doubt(row) for row in range(len(images))})
    assert flags == [{""}, {FOREIGN}, {FOREIGN}]
