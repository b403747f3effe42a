"""Explanations with search.mode published: questions about reconstructions, unclamped images, the published files."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from worlds.tiny_models import save_models, smooth_images

from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array, write_png
from blobex.explain.explainer import Explainer
from blobex.explain.request import Output, Request
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import load_decision

NAMES = [f"{number}.png" for number in range(4)]
STOP, LEFT = 1, 2  # of the outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks, whose reconstructions leave [-1,1] and are decided otherwise than some of the queries."""
    folder = save_models(tmp_path_factory.mktemp("published"))
    (folder / "photos").mkdir()
    for name, image in zip(NAMES, smooth_images(4), strict=True):
        write_png(folder / "photos" / name, to_array(image))
    return folder


@pytest.fixture(scope="module")
def explainer(folder: Path) -> Iterator[Explainer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blobex.inversion.published.STEPS", 2)
        patch.setattr("blobex.counterfactual.published.STEPS", 4)
        patch.setattr("blobex.counterfactual.published.TARGETED_STEPS", 3)
        yield load(folder, "published")


def load(folder: Path, mode: str) -> Explainer:
    params = load_params(folder / "params.yaml")
    params = dataclasses.replace(params, search=dataclasses.replace(params.search, mode=mode))
    return Explainer.load("rect", folder / "models", params, device="cpu")


def scores(folder: Path, blobs: dict[str, Tensor]) -> Tensor:
    """Return the saved model's probabilities of the rendered blobs, which are not clamped."""
    with torch.no_grad():
        images = load_blobgan(folder / "models/blobgan/rect").render(BlobLayout(**blobs))
        assert images.abs().amax() > 2
        return load_decision(folder / "models/decision/rect/plain")(images).sigmoid()


def test_decisions_are_about_unclamped_reconstructions(explainer: Explainer, folder: Path, tmp_path: Path) -> None:
    out = Output(tmp_path / "out", published=True)
    records = explainer.explain(folder / "photos", Request(["stop", "left"]), out)
    content = torch.load(tmp_path / "out" / "metadata_0.pt", weights_only=True)
    assert content["image_names"] == NAMES
    before = scores(folder, content["blob_optim"])
    torch.testing.assert_close(content["init_scores"], before, rtol=1e-4, atol=1e-4)
    disagreements = 0
    for column, name in ((STOP, "stop"), (LEFT, "left")):
        part, own = content[f"att_{column}"], [record for record in records if record.attribute == name]
        torch.testing.assert_close(part["final_scores"], scores(folder, part["blob_cf"]), rtol=1e-4, atol=1e-4)
        for record, start in zip(own, before[:, column].tolist(), strict=True):
            assert record.from_class == (name if start > 0.5 else f"not {name}") != record.to_class
            assert record.compose == "full" and record.step == 4
            disagrees = (record.score_before > 0.5) != (start > 0.5)
            assert record.gate == ("already decided otherwise" if disagrees else "")
            assert record.reconstruction_agrees != disagrees and not (record.flipped and disagrees)
            disagreements += disagrees
    assert 0 < disagreements < 8


def test_the_assignment_is_a_softmax(explainer: Explainer, folder: Path, tmp_path: Path) -> None:
    request, out = Request(["stop"], variant="diverse", count=2), Output(tmp_path / "out", published=True)
    records = explainer.explain(folder / "photos", request, out)
    path = tmp_path / "out" / "metadata_0.pt"
    content, written = torch.load(path, weights_only=True)[f"att_{STOP}"], path.read_bytes()
    shares = content["Assignment"]
    assert shares.shape == (4, 2, explainer.blobs + 1) and len(records) == 8
    torch.testing.assert_close(shares.sum(1), torch.ones(4, explainer.blobs + 1))
    assert ((shares > 0.3) & (shares < 0.7)).all() and shares.unique().numel() > 8  # after four steps from 1/2
    torch.testing.assert_close(content["final_scores"], scores(folder, content["blob_cf"]), rtol=1e-4, atol=1e-4)
    path.unlink()
    explainer.explain(folder / "photos", request, out)  # from the records of the images
    assert path.read_bytes() == written


def test_only_styles_change_in_the_targeted_script(explainer: Explainer, folder: Path, tmp_path: Path) -> None:
    record = explainer.explain(folder / "photos" / NAMES[0], Request(["stop"], variant="targeted", blobs=[1]))[0]
    assert record.changed_keys == ["spatial_style"] and record.changed_blobs == ["1"] and record.step == 3
    record = explainer.explain(folder / "photos" / NAMES[0], Request(["stop"], variant="targeted", keys=["size"]))[0]
    assert record.changed_keys == ["sizes"]
    assert explainer.plan(Request(["stop"])).variant.keys == list(KEYS)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(["stop"], steps=3), "has its own steps: leave it out"),
        (Request(["stop"], lambda_prox=0.1), "has its own lambda_prox"),
        (Request(["stop"], learning_rate=0.1), "has its own learning_rate"),
        (Request(["stop"], gate="skip"), "skips nothing: let the gate report"),
        (Request(["stop"], gate="refine"), "refines or skips nothing"),
        (Request(["stop"], variant="targeted", count=2), "one counterfactual at a time: use variant diverse"),
    ],
)
def test_what_the_scripts_cannot_do_is_refused(explainer: Explainer, request_: Request, words: str) -> None:
    with pytest.raises(BlobexError, match=words):
        explainer.plan(request_)


def test_default_records_have_no_published_parts(explainer: Explainer, folder: Path, tmp_path: Path) -> None:
    for name, mode in (("fast", load(folder, "fast")), ("published", explainer)):
        mode.explain(folder / "photos" / NAMES[0], Request(["stop"]), tmp_path / name)
        (record,) = (tmp_path / name).rglob("record.json")
        keys = set(json.loads(record.read_text())["explanations"][0])
        assert ("scores_start" in keys) == (name == "published") and "shares" not in keys
