"""Random changes of what is right: it is read, or refused in one sentence; no other error, nothing in between."""

import dataclasses
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from worlds.profiles import params_text
from worlds.tiny_world import render, scenes, tiny_explainer, tiny_params

from bad_input.world import changed
from blobex.config.params import Params
from blobex.config.read import load_params, parse
from blobex.core.errors import BlobexError
from blobex.datasets.bdd import read_decisions, read_detection
from blobex.datasets.images import load_image, to_array
from blobex.decisions.load import Card, read_card
from blobex.explain.request import Request
from blobex.explain.results_folder import read_results
from blobex.scenes.write import DatasetCounts, write_dataset

FEW = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)  # halves of letters and zero bytes too
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-2, 2) | st.just(10**400) | st.floats() | TEXTS
NAMES = st.sampled_from(["", ".", "..", "../up", "/etc/passwd", "a/../../b", "x" * 300, "-", "~"])
VALUES = st.recursive(
    SCALARS | NAMES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=6
)
SMOKE = yaml.safe_load(params_text("smoke"))
CARD = {"model": "plain", "kind": "classes", "outputs": ["a", "b"], "height": 8, "mean": [0.1, 0.2, 0.3], "std": None}


def places(tree: Any, prefix: str = "") -> list[str]:
    """The dotted keys of everything in a tree; numbers are places in lists."""
    named = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, node in named for place in (f"{prefix}{key}", *places(node, f"{prefix}{key}."))]


PARAMETERS = [place for place in places(SMOKE) if "channels" not in place]  # whose keys are numbers


def refused(error: BlobexError) -> None:
    assert str(error).strip() and "Traceback" not in str(error)


@FEW
@given(st.sampled_from(PARAMETERS), VALUES)
def test_parameters(place: str, value: Any) -> None:
    tree = changed(SMOKE, place, value)
    try:
        params = parse(Params, tree)
    except BlobexError as error:
        refused(error)
    else:
        assert parse(Params, asdict(params)) == params  # what is accepted is of the types that it should be


@FEW
@given(st.text() | st.text("{}[]:,&*!|>-?# \n\tab0\"'", max_size=40))
def test_text_as_parameters(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BlobexError) as caught:
        load_params(tmp_path / "params.yaml")
    refused(caught.value)


@FEW
@given(st.sampled_from([*places(CARD), "new"]), VALUES)
def test_cards(tmp_path: Path, place: str, value: Any) -> None:
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(changed(CARD, place, value)), encoding="utf-8")
    try:
        card = read_card(tmp_path / "card.yaml")
    except BlobexError as error:
        refused(error)
    else:
        assert parse(Card, dataclasses.asdict(card)) == card


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(folder, DatasetCounts(2, 1, 1, 1, 2, 1, 1), 16, 0)
    return folder


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("bdd100k/labels/det_20/det_train.json", read_detection),
        ("bdd_oia/lastframe/gt_4a_21r/train_25k_images_actions.json", read_decisions),
        ("bdd_oia/lastframe/gt_4a_21r/train_25k_images_reasons.json", read_decisions),
    ],
)
@FEW
@given(st.data())
def test_labels(root: Path, file: str, read: Any, data: st.DataObject) -> None:
    """Whatever is read, its pictures lie within the data set."""
    path = root / file
    whole = path.read_text()
    content = json.loads(whole)
    try:
        path.write_text(json.dumps(changed(content, data.draw(st.sampled_from(places(content))), data.draw(VALUES))))
        for record in read(root, "train"):
            assert record.image.resolve().is_relative_to(root.resolve())
            for box in getattr(record, "boxes", ()):
                assert np.isfinite([box.x1, box.y1, box.x2, box.y2]).all()
    except BlobexError as error:
        refused(error)
    finally:
        path.write_text(whole)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "out"
    tiny_explainer(tiny_params(steps=3)).explain([to_array(render(scenes(1))[0])], Request(["stop"]), folder)
    return folder


@FEW
@given(st.data())
def test_records_of_explanations(results: Path, data: st.DataObject) -> None:
    """A record that can be read can be written as a row of the table."""
    path = next(results.rglob("record.json"))
    whole = path.read_text()
    content = json.loads(whole)
    try:
        path.write_text(json.dumps(changed(content, data.draw(st.sampled_from(places(content))), data.draw(VALUES))))
        for record in read_results(results):
            assert record.row()["verdict"] and isinstance(record.words, str)
    except BlobexError as error:
        refused(error)
    finally:
        path.write_text(whole)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
@FEW
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4), st.data())
def test_pictures(tmp_path: Path, kind: str, changes: list[tuple[float, int]], data: st.DataObject) -> None:
    """Some bytes are others, and the end may be missing."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)).save(stream, kind)
    content = bytearray(stream.getvalue())
    for share, value in changes:
        content[int(share * len(content))] = value
    (tmp_path / "photo.png").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        picture = load_image(tmp_path / "photo.png")
    except BlobexError as error:
        refused(error)
    else:
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.size
