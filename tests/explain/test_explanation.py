"""Explanations as records, rows and files."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from worlds.linear_world import MeanAbsolute

from blobex.config.explain import InversionParams, SearchParams
from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.questions import Questions, build_questions
from blobex.counterfactual.search import search
from blobex.counterfactual.verify import Counterfactuals
from blobex.explain.blob_changes import BlobChange
from blobex.explain.explanation import Explanation, GateResult, add_sentences, build_explanations
from blobex.explain.input_images import InvertedImages
from blobex.explain.overviews import read_table, write_metadata, write_table
from blobex.inversion.inversion import Inversion
from blobex.inversion.invert import invert
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.splat import splat
from blobex.networks.parser import Detections
from blobex.optim.network_callables import NetworkPair, Networks
from blobex.perception.objects import read_scene

BLOBS = 2
NAMES = ["a.png", "b.png", "c.png"]
OUTPUTS = ("forward", "stop", "left", "right")
INVERT = InversionParams(
    steps=0,
    decision_steps=0,
    learning_rate=0.02,
    size_lr_multiplier=2,
    perceptual=1,
    l2=1,
    decision=1,
    blobs=1,
    density=1,
)
EXPLAIN = SearchParams(
    examples=0,
    steps=30,
    learning_rate=0.02,
    size_lr_multiplier=8,
    lambda_prox=0.0,
    density=0.0,
    disturbances=0,
    nameable=False,
    margin=0.0,
    patience=0,
    retries=0,
    bisections=4,
    lambda_key=dict.fromkeys(KEYS, 1.0),
)


def encode(images: Tensor) -> BlobLayout:
    n = len(images)
    sizes, features = torch.zeros(n, BLOBS + 1), torch.zeros(n, BLOBS + 1, 2)
    centres = images.mean((1, 2, 3))[:, None].expand(-1, BLOBS)
    return BlobLayout(centres, centres, torch.zeros(n, BLOBS, 4), sizes, features, features)


def render(layout: BlobLayout) -> Tensor:
    return layout.xs.mean(1)[:, None, None, None].expand(-1, 3, 4, 8)


def decide(images: Tensor) -> Tensor:
    """Four logits: stop (1) is brightness above 0, right (3) is never reached."""
    brightness = images.mean((1, 2, 3))
    return torch.stack([brightness, 5 * brightness, -brightness, brightness * 0.01 - 9], dim=1)


Solved = tuple[Questions, Tensor, Inversion, Counterfactuals]
NETWORKS = Networks(render, lambda layout: splat(layout, 2, 2), encode, decide, decide, MeanAbsolute())


@pytest.fixture(scope="module")
def solved() -> Solved:
    queries = torch.tensor([-0.3, -0.1, 0.2])[:, None, None, None].expand(-1, 3, 4, 8).clone()
    inversion = invert(queries, NetworkPair(NETWORKS, NETWORKS), INVERT, 4)
    questions = build_questions("attributes", OUTPUTS, decide(queries), [1, 3])
    allowed = build_masks(BLOBS, ("xs", "ys"), None, background=False)
    index, target = questions.image_index, questions.target
    problems = Problems.of(queries, inversion.layout, index, target, allowed, EXPLAIN.lambda_key)
    found = search(problems, NetworkPair(NETWORKS, NETWORKS), EXPLAIN, 4)
    return questions, queries, inversion, found


@pytest.fixture(scope="module")
def records(solved: Solved) -> list[Explanation]:
    questions, queries, inversion, found = solved
    images, gate = InvertedImages(NAMES, queries, inversion), GateResult([""] * len(questions))
    return build_explanations("rect", images, questions, found, gate, "full")


def test_records_describe_each_problem(records: list[Explanation]) -> None:
    assert [(record.image, record.attribute) for record in records] == [
        (name, attribute) for name in NAMES for attribute in ("stop", "right")
    ]
    assert [record.flipped for record in records] == [True, False] * 3
    assert [record.from_class for record in records] == ["not stop", "not right"] * 2 + ["stop", "not right"]
    assert [record.to_class for record in records] == ["stop", "right"] * 2 + ["not stop", "right"]
    assert [record.column for record in records] == [1, 3] * 3
    assert [record.verdict for record in records] == ["flipped", "not flipped"] * 3
    assert records[0].score_before == pytest.approx(1 / (1 + np.exp(1.5)))  # 5 * -0.3
    assert records[0].score_after > 0.5 > records[4].score_after
    assert records[0].changed_keys == ["xs"]  # ys may change too, but does nothing
    assert records[0].changes["xs"] == pytest.approx(0.3, abs=0.025)
    assert records[0].perceptual == pytest.approx(0.3, abs=0.025)
    assert all(record.reconstruction_agrees for record in records)
    # -0.3 in [-1,1] is (1 - 0.3) * 127.5 = 89.25 of 255.
    assert records[0].query.shape == (4, 8, 3) and (records[0].query == 89).all()
    assert (records[0].reconstruction == 89).all()
    torch.testing.assert_close(render(records[0].blobs_before), torch.full((1, 3, 4, 8), -0.3))
    assert (records[0].counterfactual > 127).all()


def test_verdicts(records: list[Explanation]) -> None:
    assert dataclasses.replace(records[0], reconstruction_agrees=False).verdict == "flipped by the reconstruction"
    assert dataclasses.replace(records[0], reconstruction_agrees=False, compose="photo").verdict == "flipped"
    assert dataclasses.replace(records[0], failed=True, flipped=False).verdict == "failed"
    assert dataclasses.replace(records[1], believable=False).verdict == "no believable change found"
    assert dataclasses.replace(records[1], believable=False, failed=True).verdict == "failed"
    assert dataclasses.replace(records[1], believable=False, skipped=True).verdict == "skipped"
    assert dataclasses.replace(records[1], skipped=True).verdict == "skipped"


def test_repaints_of_the_whole_scene_are_marked(records: list[Explanation]) -> None:
    """A new appearance of blobs that paint half of the image is a last resort; large objects that appear are none."""

    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    empty = read_scene(nothing, *np.zeros((2, 64, 128), int), np.zeros((64, 128, 3), np.uint8))

    def told(*changes: tuple[float, float, str]) -> str:
        blobs = tuple(BlobChange(0, (key,), 0.5, 0.5, 0.5, 0.5, *areas) for *areas, key in changes)
        record = dataclasses.replace(records[0], blobs=blobs)
        return add_sentences([record], lambda images: [empty] * len(images))[0].sentence

    assert told((0.3, 0.3, "features"), (0.25, 0.2, "spatial_style")).startswith("last resort, the whole scene")
    assert not told((0.3, 0.3, "features"), (0.25, 0.1, "spatial_style")).startswith("last resort")
    assert not told((0.0, 0.9, "features"), (0.9, 0.9, "xs")).startswith("last resort")


def test_metadata_has_the_published_keys(tmp_path: Path, solved: Solved, records: list[Explanation]) -> None:
    _, queries, inversion, _ = solved
    path = write_metadata(tmp_path, 7, records, 3)
    assert path.name == "metadata_7.pt"
    content = torch.load(path, weights_only=True)
    assert set(content) == {"image_names", "blob_optim", "init_scores", "att_1", "att_3"}
    assert content["image_names"] == NAMES
    assert set(content["blob_optim"]) == set(KEYS)
    assert torch.equal(content["blob_optim"]["xs"], inversion.layout.xs)
    torch.testing.assert_close(content["init_scores"], decide(queries).sigmoid())
    for attribute in (1, 3):
        part = content[f"att_{attribute}"]
        assert set(part) == {"final_scores", "blob_cf"}
        layout = BlobLayout(**part["blob_cf"])
        torch.testing.assert_close(part["final_scores"], decide(render(layout)).sigmoid())
    assert (content["att_1"]["final_scores"][:, 1] > 0.5).tolist() == [True, True, False]
    (tmp_path / "again").mkdir()
    assert path.read_bytes() == write_metadata(tmp_path / "again", 7, records, 3).read_bytes()


def test_metadata_of_questions_that_differ_by_image(tmp_path: Path, records: list[Explanation]) -> None:
    """As with the runners-up of classes: each output's part is of its own pictures, in their order."""
    content = torch.load(write_metadata(tmp_path, 0, [records[1], records[2], records[5]], 3), weights_only=True)
    assert content["image_names"] == NAMES
    assert content["att_3"]["final_scores"].shape == (2, 4) and content["att_1"]["final_scores"].shape == (1, 4)
    assert torch.equal(content["att_3"]["blob_cf"]["xs"][1], records[5].blobs_after.xs[0])


def test_table_round_trip(tmp_path: Path, records: list[Explanation]) -> None:
    path = write_table(tmp_path, [record.row() for record in records])
    rows = read_table(tmp_path)
    assert len(rows) == len(records)
    assert rows[0]["image"] == "a.png" and rows[0]["flipped"] is True and rows[0]["changed_keys"] == ["xs"]
    assert (rows[0]["from_class"], rows[0]["to_class"]) == ("not stop", "stop")
    assert rows[0]["change_xs"] == pytest.approx(records[0].changes["xs"])
    table = pq.read_table(path)
    assert table.num_rows == 6
    assert {f"change_{key}" for key in KEYS} < set(table.column_names)
    assert [file.name for file in tmp_path.iterdir()] == ["explanations.parquet"]


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[Explanation]
) -> None:
    def broken(writer: pq.ParquetWriter, table: object) -> None:
        Path(writer.where).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        write_table(tmp_path, [record.row() for record in records])
    assert not list(tmp_path.iterdir())


def test_missing_or_damaged_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BlobexError, match="cannot read"):
        read_table(tmp_path)
    (tmp_path / "explanations.parquet").write_text("no table")
    with pytest.raises(BlobexError, match="cannot read"):
        read_table(tmp_path)
