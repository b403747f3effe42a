"""Folders of results: written image by image, read back unchanged, continued after an interruption."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from worlds.tiny_world import (
    BLOBS,
    OUTPUTS,
    decide,
    painted_networks,
    road_images,
    tiny_explainer,
    tiny_params,
)

from blobex.core.errors import BlobexError
from blobex.datasets.images import load_image
from blobex.decisions.decision import Input
from blobex.decisions.source import from_callable
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.overviews import read_table
from blobex.explain.request import Output, Request
from blobex.explain.results_folder import ResultsFolder, read_results
from blobex.layout.blobs import KEYS

SETTINGS = {"setup": "rect", "request": {"steps": 4}}


def explainer(steps: int = 6) -> Explainer:
    return tiny_explainer(tiny_params(steps))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def same(first: Sequence[Explanation], second: Sequence[Explanation]) -> None:
    assert list(first) == list(second)  # all fields but those below
    for one, other in zip(first, second, strict=True):
        for name in ("query", "reconstruction", "counterfactual"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("scores_before", "scores_after"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        for name in ("blobs_before", "blobs_after"):
            assert all(torch.equal(t, getattr(getattr(other, name), key)) for key, t in getattr(one, name).items())


def test_reading_returns_what_was_written(tmp_path: Path) -> None:
    records = explainer().explain(road_images(3), Request(["stop", "left"], count=2), tmp_path / "out")
    assert len(records) == 3 * 2 * 2
    same(read_results(tmp_path / "out"), records)
    folder = tmp_path / "out" / "pictures" / "0000_array_0"
    assert (load_image(folder / "query.png") == road_images(1)[0]).all()
    content = json.loads((folder / "record.json").read_text())
    assert [row["label"] for row in content["explanations"]] == [
        "stop_to_not_stop_0",
        "stop_to_not_stop_1",
        "left_to_not_left_0" if records[2].from_class == "left" else "not_left_to_left_0",
        "left_to_not_left_1" if records[2].from_class == "left" else "not_left_to_left_1",
    ]
    rows = read_table(tmp_path / "out")
    assert [(row["image"], row["attribute"], row["number"], row["verdict"]) for row in rows] == [
        (record.image, record.attribute, record.number, record.verdict) for record in records
    ]


@pytest.mark.parametrize("stop_at", [4, 6])
def test_an_interrupted_run_continues_to_the_same_results(
    tmp_path: Path, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first batch of four pictures, and in the middle of writing the second."""
    whole = explainer().explain(road_images(8), Request(["stop"]), Output(tmp_path / "whole", gif=True))
    write, calls = ResultsFolder.write, list[int]()

    def stopped(self: ResultsFolder, number: int, *arguments: object) -> Path:
        if number >= stop_at:
            raise KeyboardInterrupt
        calls.append(number)
        return write(self, number, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ResultsFolder, "write", stopped)
        explainer().explain(road_images(8), Request(["stop"]), Output(tmp_path / "broken", gif=True))
    assert len(list((tmp_path / "broken").rglob("record.json"))) == len(calls) == stop_at
    inverted = []
    inner = Explainer.invert
    monkeypatch.setattr(
        Explainer,
        "invert",
        lambda self, queries, *rest: (inverted.append(len(queries)), inner(self, queries, *rest))[1],
    )
    again = explainer().explain(road_images(8), Request(["stop"]), Output(tmp_path / "broken", gif=True))
    assert sum(inverted) == 0  # neither finished images nor those whose inversion is kept are inverted again
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")
    same(again, whole)


def test_damaged_and_foreign_images_are_explained_again(tmp_path: Path) -> None:
    explainer().explain(road_images(3), Request(["stop"]), tmp_path / "out")
    before = tree(tmp_path / "out")
    folders = sorted((tmp_path / "out" / "pictures").iterdir())
    (folders[0] / "blobs.safetensors").write_bytes(b"half")
    (folders[1] / "query.png").unlink()
    shutil.rmtree(folders[2])
    explainer().explain(road_images(3), Request(["stop"]), tmp_path / "out")
    assert tree(tmp_path / "out") == before
    shown = road_images(3)
    shown[1] = shown[1][::-1].copy()  # another picture of the same name
    explainer().explain(shown, Request(["stop"]), tmp_path / "out")
    after = tree(tmp_path / "out")
    assert {name.split("/")[1] for name in after if "/" in name and after[name] != before[name]} == {folders[1].name}
    explainer().explain(shown[:2], Request(["stop"]), out=tmp_path / "out")  # removes the third
    assert [path.name for path in sorted((tmp_path / "out" / "pictures").iterdir())] == [
        path.name for path in folders[:2]
    ]


def test_results_of_other_settings_are_kept_without_replace(tmp_path: Path) -> None:
    explainer().explain(road_images(2), Request(["stop"]), tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(BlobexError, match=r"request\.setup\.steps was 6 and is 7"):
        explainer(7).explain(road_images(2), Request(["stop"]), tmp_path / "out")
    with pytest.raises(BlobexError, match=r"weights\.blobgan was None and is 1"):
        dataclasses.replace(explainer(), weights={"blobgan": "1"}).explain(
            road_images(2), Request(["stop"]), out=tmp_path / "out"
        )
    assert tree(tmp_path / "out") == before
    explainer(7).explain(road_images(2), Request(["stop"]), Output(tmp_path / "out", replace=True))
    assert (
        tree(tmp_path / "out")
        == (explainer(7).explain(road_images(2), Request(["stop"]), tmp_path / "new"), tree(tmp_path / "new"))[1]
    )


def test_results_of_other_code_are_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline keeps the folder when its code changes."""
    explainer().explain(road_images(1), Request(["stop"]), tmp_path / "out")
    monkeypatch.setattr("blobex.explain.result_settings.code_digest", lambda start: "other")
    with pytest.raises(BlobexError, match=r"results of other settings \(code was "):
        explainer().explain(road_images(1), Request(["stop"]), tmp_path / "out")


def test_only_changed_entries_of_counterfactuals_are_stored(tmp_path: Path) -> None:
    records = explainer().explain(road_images(1), Request(["stop", "left"], keys=["xs"]), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "pictures" / "0000_array_0" / "blobs.safetensors")
    labels = {name.split(".")[0] for name in tensors} - {"before"}
    assert len(labels) == len(records)
    for label in labels:
        at = tensors[f"{label}.xs.at"]
        assert 0 < len(at) <= tensors["before.xs"].shape[1]
        assert (tensors[f"{label}.xs"] != tensors["before.xs"][0, at]).all()
        assert all(len(tensors[f"{label}.{key}"]) == 0 for key in KEYS if key != "xs")


def test_outputs_with_names_unfit_for_files_get_separate_files(tmp_path: Path) -> None:
    decision = from_callable(decide, "attributes", ("a", "a?", "左", "右"), name="painted")
    networks = painted_networks(decision)
    small = Explainer("rect", tiny_params(6), torch.device("cpu"), decision, networks, networks, BLOBS)
    records = small.explain(road_images(2), Request(["a", "a?", "左", "右"]), Output(tmp_path / "out", gif=True))
    same(read_results(tmp_path / "out"), records)
    assert len(list((tmp_path / "out/pictures/0000_array_0").glob("*.gif"))) == 4


def test_files_of_images_that_are_gone_are_removed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("blobex.explain.results_folder.IMAGES_PER_FILE", 2)
    explainer().explain(road_images(5), Request(["stop"]), Output(tmp_path / "out", published=True))
    assert len(list((tmp_path / "out").glob("snapshot_*.png"))) == len(list((tmp_path / "out").glob("*.pt"))) == 3
    explainer().explain(road_images(1), Request(["stop"]), tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"settings.json", "pictures", "explanations.parquet", "snapshot_0.png"}


@pytest.mark.parametrize("change", [{"input": Input(mean=(0.9, 0.5, 0.5))}, {"kind": "classes"}])
def test_another_input_or_meaning_of_the_model_is_another_setting(tmp_path: Path, change: dict[str, object]) -> None:
    explainer().explain(road_images(1), Request(["stop"]), tmp_path / "out")
    decision = from_callable(decide, **({"kind": "attributes", "outputs": OUTPUTS, "name": "painted"} | change))
    networks = painted_networks(decision)
    other = Explainer("rect", tiny_params(6), torch.device("cpu"), decision, networks, networks, BLOBS)
    with pytest.raises(BlobexError, match=r"results of other settings \(decision\."):
        other.explain(road_images(1), Request(["stop"]), tmp_path / "out")


def test_other_files_are_never_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for out, message in ((".", r"thesis\.tex"), ("thesis.tex", "is a file"), ("thesis.tex/out", "cannot write")):
        for replace in (False, True):
            with pytest.raises(BlobexError, match=message):
                ResultsFolder.open(Output(tmp_path / out, replace=replace), SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    explainer().explain(road_images(1), Request(["stop"]), tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and len(read_results(tmp_path / "disk")) == 1


def test_missing_and_damaged_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BlobexError, match="there are no explanations"):
        read_results(tmp_path)
    explainer().explain(road_images(1), Request(["stop"]), tmp_path / "out")
    record = next((tmp_path / "out").rglob("record.json"))
    record.write_text(record.read_text()[:100])
    with pytest.raises(BlobexError, match="0000_array_0 is damaged"):
        read_results(tmp_path / "out")


def test_failures_are_written_and_read(tmp_path: Path) -> None:
    """A model that says NaN about some pictures: those are failures, never flips, and the others as ever."""

    def sometimes(images: Tensor) -> Tensor:
        return torch.where(
            (images[:, :1, 0, 0] < -2) | (images.mean((1, 2, 3)) < 0.0)[:, None], torch.nan, decide(images)
        )

    broken = from_callable(sometimes, "attributes", ("forward", "stop", "left", "right"), name="painted")
    dark, bright = np.zeros((32, 64, 3), np.uint8), road_images(1)[0]
    shown = [dark, (bright // 4 + 180).astype(np.uint8)]
    records = tiny_explainer(tiny_params(steps=3), broken).explain(shown, Request(["stop"]), tmp_path / "out")
    assert records[0].verdict == "failed" and not records[0].flipped
    assert np.isnan(records[0].score_before)
    assert records[0].sentence == (
        "the model painted gives NaN or infinity for array_0: there is no decision to explain"
    )
    assert (records[0].from_class, records[0].to_class) == ("undecided", "undecided")
    assert not records[0].blobs and not records[0].step  # nothing was searched
    assert records[1].from_class in ("stop", "not stop") and "NaN" not in records[1].sentence
    texts = [path.read_text() for path in sorted((tmp_path / "out").rglob("*.json"))]
    assert len(texts) == 3
    for text in texts:
        json.loads(text, parse_constant=pytest.fail)  # called for NaN and Infinity, which are no JSON
    back = read_results(tmp_path / "out")
    assert [record.verdict for record in back] == [record.verdict for record in records]
    assert np.isnan(back[0].score_before)


def test_animations_lead_from_query_to_counterfactual(tmp_path: Path) -> None:
    records = explainer(20).explain(road_images(2), Request(["stop"], blobs=[4]), Output(tmp_path / "out", gif=True))
    for record, path in zip(records, sorted((tmp_path / "out").rglob("*.gif")), strict=True):
        with Image.open(path) as film:
            assert film.n_frames == 2 * 16 - 2
            shown = []
            for frame in range(16):
                film.seek(frame)
                shown.append(np.asarray(film.convert("RGB")).astype(int))
        assert np.abs(shown[0] - record.query).mean() < 4  # a palette of 256 colours
        assert np.abs(shown[-1] - record.counterfactual).mean() < 4
        towards = [np.abs(frame - record.counterfactual).mean() for frame in shown]
        assert towards[0] > 2 * towards[12] and towards[4] > towards[12]


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    explainer().explain(road_images(2), Request(["stop"]), tmp_path / "out")
    before = tree(tmp_path / "out")
    (tmp_path / "out" / "explanations.parquet").rename(tmp_path / "out" / ".explanations.parquet.part")
    (tmp_path / "out" / "pictures" / ".0001_array_1.x7k").mkdir()
    explainer().explain(road_images(2), Request(["stop"]), tmp_path / "out")
    assert tree(tmp_path / "out") == before
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2


def test_images_are_ordered_by_number(tmp_path: Path) -> None:
    (record,) = explainer().explain(road_images(1), Request(["stop"]))
    store, query = ResultsFolder.open(Output(tmp_path / "out"), SETTINGS), torch.zeros(3, 32, 64)
    for number in (10_000, 9_999, 7):
        store.write(number, query, [dataclasses.replace(record, image=f"{number}.png")])
    assert [found.image for found in read_results(tmp_path / "out")] == ["7.png", "9999.png", "10000.png"]
